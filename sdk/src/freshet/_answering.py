"""How the blobs that Redis holds become the answers of a reader.

Owns the values of whatever is missing, and the age of features. Must not know Redis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from freshet import blob
from freshet.results import KnowledgeRead, UserRead


@dataclass(frozen=True, slots=True)
class Answering:
    """Turns blobs into answers: `default` fills the rows of absent items, ages count up to `now_ms`."""

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

    def user(self, stored: bytes | None, shape: blob.Shape, version: str, *, answered: bool = True) -> UserRead:
        """The answer for one user's blob."""
        user = blob.decode_user(stored, shape)
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

    def knowledge(self, stored: bytes | None, version: str) -> KnowledgeRead | None:
        """The answer for one item's knowledge blob."""
        decoded = blob.decode_knowledge(stored)
        if decoded is None:
            return None
        header, document = decoded
        return KnowledgeRead(document, self.age(header.event_time), version)

    def age(self, event_time: int) -> float:
        """Seconds since an event; never negative, as clocks differ and an event may seem to lie ahead."""
        return max((self.now_ms - event_time) / 1_000, 0.0)
