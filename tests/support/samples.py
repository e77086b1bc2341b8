"""Features to write and read in tests: vectors whose every value says where they come from."""

from __future__ import annotations

from typing import Any

import numpy as np

from freshet.records import InferredBehavior, ItemFeatures, ItemTier, UserFeatures, UserTier
from tests.support.fakes import NOW_MS

DIMS = 8


def vector(value: float, dims: int = DIMS) -> bytes:
    return np.full(dims, value, dtype="<f2").tobytes()


def item(item_id: str = "i1", value: float = 1.0, **change: Any) -> ItemFeatures:
    """An item whose vector is `value` throughout."""
    values: dict[str, Any] = {
        "item_id": item_id,
        "version": "v1",
        "tier": ItemTier.TEXT,
        "event_time": NOW_MS,
        "computed_time": NOW_MS + 5,
        "dims": DIMS,
        "source_partition": 3,
        "source_offset": 70,
    }
    values |= change
    return ItemFeatures(**{"vector": vector(value, values["dims"]), **values})


def user(user_id: str = "u1", value: float = 1.0, **change: Any) -> UserFeatures:
    """A user whose log vector is `value` throughout and whose inferred vector is its negative."""
    values: dict[str, Any] = {
        "user_id": user_id,
        "version": "v1",
        "tier": UserTier.DIFFUSION,
        "event_time": NOW_MS,
        "computed_time": NOW_MS + 5,
        "dims": DIMS,
        "behaviors": (InferredBehavior("i1", 0.75), InferredBehavior("ü", 0.25)),
        "history_length": 12,
    }
    values |= change
    vectors = {"log_vector": vector(value, values["dims"]), "inferred_vector": vector(-value, values["dims"])}
    return UserFeatures(**{**vectors, **values})
