"""What a reader returns: arrays of the right shape whatever is missing, all of one version.

Owns the results and their short `repr`, which shows counts and never an array. Must not know Redis keys or bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from freshet.records import InferredBehavior


@dataclass(frozen=True, slots=True, eq=False)
class UserRead:
    """One user's features. An unknown user has zero vectors, no behaviors and an infinite age.

    `log_vector` is made from the events of the log, `inferred_vector` from what a model infers beyond them: weigh them
    apart. `tier` is 1 for the fallback reasoner, 2 for the diffusion reasoner, 0 for an absent user. `degraded` is True
    where a deadline cut the inference short. `answered` is False where the server did not answer in time, so that the
    user may exist all the same.
    """

    log_vector: NDArray[np.float32]  # (dims,)
    inferred_vector: NDArray[np.float32]  # (dims,)
    behaviors: tuple[InferredBehavior, ...]
    present: bool
    age_seconds: float
    tier: int
    degraded: bool
    history_length: int
    version: str
    answered: bool = True

    def __repr__(self) -> str:
        if not self.present:
            return f"UserRead({'absent' if self.answered else 'not answered'}, version={self.version!r})"
        parts = [
            "present",
            f"version={self.version!r}",
            f"dims={len(self.log_vector)}",
            f"age={self.age_seconds:.1f} s",
            f"tier={self.tier}",
            f"behaviors={len(self.behaviors)}",
            f"history={self.history_length}",
        ]
        return f"UserRead({', '.join(parts)}{', degraded' if self.degraded else ''})"


@dataclass(frozen=True, slots=True, eq=False)
class ItemsRead:
    """The features of N items, in the order of the ids in the request.

    A row is absent where the item is unknown or deleted, or where its server did not answer in time; then `answered` is
    False as well. An absent row holds the reader's `default`, has tier 0 and an infinite age. `partial` is True where
    some row, or the user, was not answered; `errors` has the reasons. `age_seconds` counts from the event that the
    features were made from. `tier` is 1 for text, 2 for knowledge.
    """

    item_matrix: NDArray[np.float32]  # (N, dims)
    present: NDArray[np.bool_]  # (N,)
    age_seconds: NDArray[np.float32]  # (N,)
    tier: NDArray[np.uint8]  # (N,)
    version: str
    answered: NDArray[np.bool_]  # (N,)
    partial: bool
    errors: tuple[redis.RedisError, ...]

    def __repr__(self) -> str:
        return f"ItemsRead({_summary(self)})"


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRead(ItemsRead):
    """N candidates and the user to rank them for, all of the version that was active at the time of the read."""

    user: UserRead

    def __repr__(self) -> str:
        return f"FeatureRead({_summary(self)}, user={self.user!r})"


@dataclass(frozen=True, slots=True)
class KnowledgeRead:
    """What is known about one item: `document` is JSON with the fields of the record `ItemKnowledge`."""

    document: dict[str, Any]
    age_seconds: float
    version: str

    def __repr__(self) -> str:
        item_id, claims = self.document.get("item_id"), len(self.document.get("claims", ()))
        return f"KnowledgeRead({item_id!r}, version={self.version!r}, age={self.age_seconds:.1f} s, claims={claims})"


@dataclass(frozen=True, slots=True)
class ItemChanges:
    """Ids of the items of one version that were written or deleted; pass `newest_ms` to the next call."""

    version: str
    written: list[str]
    deleted: list[str]
    newest_ms: int

    def __repr__(self) -> str:
        counts = f"written={len(self.written)}, deleted={len(self.deleted)}"
        return f"ItemChanges(version={self.version!r}, {counts}, newest_ms={self.newest_ms})"


def _summary(items: ItemsRead) -> str:
    """How many of the items are present, and how old those are."""
    count, dims = items.item_matrix.shape
    parts = [
        f"{np.count_nonzero(items.present)} of {count} items present",
        f"version={items.version!r}",
        f"dims={dims}",
    ]
    ages = items.age_seconds[items.present]
    if len(ages):
        parts.append(f"age={ages.min():.1f} to {ages.max():.1f} s")
    if unanswered := count - np.count_nonzero(items.answered):
        parts.append(f"{unanswered} not answered")
    if items.partial:
        reason = f": {type(items.errors[0]).__name__}: {items.errors[0]}" if items.errors else ""
        parts.append(f"partial{reason}")
    return ", ".join(parts)
