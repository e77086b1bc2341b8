"""What a reader answers: arrays of the right shape whatever is missing, all of one version.

Owns the answers and how stored bytes become them; `blob.py` owns the bytes. Must not know Redis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from freshet import blob
from freshet.records import InferredBehavior


@dataclass(frozen=True, slots=True, eq=False)
class UserRead:
    """One user's features. An unknown user has zero vectors, no behaviours and an infinite age.

    `log_vector` says what the log shows, `inferred_vector` what a model infers beyond it: weigh them apart. `answered`
    is False where the server did not answer in time, so that nobody knows whether there is such a user.
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


@dataclass(frozen=True, slots=True, eq=False)
class ItemsRead:
    """The features of N items, in the order asked for.

    An unknown or deleted item is a row of the reader's default value, with tier 0 and an infinite age; so is one whose
    server did not answer in time, and its `answered` is False. `partial` says that there is such a row (or user), and
    `errors` why. `age_seconds` counts from the event that the features were made from; `tier` is 1 for text, 2 for
    knowledge.
    """

    item_matrix: NDArray[np.float32]  # (N, dims)
    present: NDArray[np.bool_]  # (N,)
    age_seconds: NDArray[np.float32]  # (N,)
    tier: NDArray[np.uint8]  # (N,)
    version: str
    answered: NDArray[np.bool_]  # (N,)
    partial: bool
    errors: tuple[redis.RedisError, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRead(ItemsRead):
    """N candidates and the user to rank them for, all of one version as it stood at one moment."""

    user: UserRead


@dataclass(frozen=True, slots=True)
class KnowledgeRead:
    """What is known about one item: `document` has the fields of the Avro contract `ItemKnowledge`."""

    document: dict[str, Any]
    age_seconds: float
    version: str


@dataclass(frozen=True, slots=True)
class ItemChanges:
    """Items of one version written and deleted since a moment; pass `newest_ms` to the next call."""

    version: str
    written: list[str]
    deleted: list[str]
    newest_ms: int


@dataclass(frozen=True, slots=True)
class Answering:
    """How blobs become answers: what absent items are filled with, and what time it is."""

    default: float
    now_ms: int

    def items(
        self,
        vectors: NDArray[np.float32],
        present: NDArray[np.bool_],
        event_time: NDArray[np.int64],
        tier: NDArray[np.uint8],
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32], NDArray[np.uint8]]:
        """Matrix, presence, age and tier of N decoded rows."""
        age = np.maximum((self.now_ms - event_time) * 1e-3, 0.0).astype(np.float32)
        if not present.all():
            absent = ~present
            age[absent] = np.inf
            vectors[absent] = self.default
        return vectors, present, age, tier

    def user(self, found: bytes | None, shape: blob.Shape, version: str, *, answered: bool = True) -> UserRead:
        """The answer for one user's blob."""
        user = blob.decode_user(found, shape)
        if user is None:
            zeros = np.zeros((2, shape.dims), dtype=np.float32)
            return UserRead(zeros[0], zeros[1], (), False, float("inf"), 0, False, 0, version, answered)
        header = user.header
        return UserRead(
            log_vector=user.log_vector,
            inferred_vector=user.inferred_vector,
            behaviors=user.behaviors,
            present=True,
            age_seconds=self.age(header.event_time),
            tier=header.tier,
            degraded=bool(header.flags & blob.DEGRADED),
            history_length=header.history_length,
            version=version,
        )

    def knowledge(self, found: bytes | None, version: str) -> KnowledgeRead | None:
        """The answer for one item's knowledge blob."""
        decoded = blob.decode_knowledge(found)
        if decoded is None:
            return None
        header, document = decoded
        return KnowledgeRead(document, self.age(header.event_time), version)

    def age(self, event_time: int) -> float:
        """Seconds since an event; an event of the near future is new."""
        return max((self.now_ms - event_time) / 1_000, 0.0)
