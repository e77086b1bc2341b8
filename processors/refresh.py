"""Refresh users: from histories to `UserFeatures` with log vector, inferred vector and behaviours.

Owns how vectors are weighted, normalised and packed, and which reasoner answers for whom. Must not choose who is due,
nor load or store anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Catalogue
from models.reasoner import BehaviorReasoner, Inference, LearnsOnline, UserHistory
from schemas.records import UserFeatures

HALF_LIFE_EVENTS = 32.0
"""An event this many places back weighs half. Places, not days: a user who paused is not forgotten."""

Vector = NDArray[np.float32]


class UserRefresher:
    """Makes the features of a batch of users in one go.

    `reasoner` answers first; `fallback` answers for users whom it can say nothing about (or for all, where `reasoner`
    is None). `clock` gives milliseconds since the epoch.
    """

    def __init__(
        self,
        reasoner: BehaviorReasoner | None,
        fallback: BehaviorReasoner | None,
        version: str,
        clock: Callable[[], int],
        slots: int,
        steps: int,
        *,
        deadline_s: float | None = None,
        half_life_events: float = HALF_LIFE_EVENTS,
        seed: int = 0,
    ) -> None:
        self._reasoners = [each for each in (reasoner, fallback) if each is not None]
        if not self._reasoners:
            raise ValueError("a refresher needs a reasoner or a fallback")
        self._version = version
        self._clock = clock
        self._slots = slots
        self._steps = steps
        self._deadline_s = deadline_s
        self._half_life_events = half_life_events
        self._seed = seed

    def refresh(self, histories: Sequence[UserHistory], catalogue: Catalogue) -> list[UserFeatures]:
        """Features of each user, in order; a user with no known item gets zero vectors and no behaviours."""
        for reasoner in self._reasoners:
            if isinstance(reasoner, LearnsOnline):
                reasoner.observe(histories)
        answers: list[tuple[BehaviorReasoner, Inference]] = []
        open_ = list(range(len(histories)))
        for position, reasoner in enumerate(self._reasoners):
            inferred = reasoner.infer(
                [histories[i] for i in open_],
                catalogue,
                slots=self._slots,
                steps=self._steps,
                deadline_s=self._deadline_s,
                seed=self._seed,
            )
            if position == 0:
                answers = [(reasoner, inference) for inference in inferred]
            else:
                for i, inference in zip(open_, inferred, strict=True):
                    if inference.behaviors:
                        answers[i] = (reasoner, inference)
            open_ = [i for i in open_ if not answers[i][1].behaviors]
            if not open_:
                break
        return [
            self._features(history, reasoner, inference, catalogue)
            for history, (reasoner, inference) in zip(histories, answers, strict=True)
        ]

    def _features(
        self, history: UserHistory, reasoner: BehaviorReasoner, inference: Inference, catalogue: Catalogue
    ) -> UserFeatures:
        confidences = np.array([behavior.confidence for behavior in inference.behaviors], dtype=np.float32)
        vectors, _ = catalogue.get([behavior.item_id for behavior in inference.behaviors])
        inferred = confidences @ vectors  # (dims,); behaviours without an item add zeros here, and their own below
        if inference.text_vector is not None:
            inferred = inferred + inference.text_vector
        return UserFeatures(
            user_id=history.user_id,
            version=self._version,
            tier=int(reasoner.tier),
            event_time=max(history.event_times, default=0),
            computed_time=self._clock(),
            dims=catalogue.dims,
            log_vector=pack(log_vector(history.item_ids, catalogue, self._half_life_events)),
            inferred_vector=pack(inferred),
            behaviors=inference.behaviors,
            reasoner=reasoner.name,
            history_length=len(history.item_ids),
            degraded=inference.degraded,
        )


def log_vector(item_ids: Sequence[str], catalogue: Catalogue, half_life_events: float) -> Vector:
    """Sum of the known items' vectors, halved every `half_life_events` places back; (dims,), not normalised."""
    vectors, _ = catalogue.get(item_ids)  # (N, dims), zeros where unknown
    places_back = np.arange(len(item_ids))[::-1]
    weights = np.exp2(-places_back / half_life_events).astype(np.float32)
    summed: Vector = weights @ vectors
    return summed


def pack(vector: Vector) -> bytes:
    """L2-normalised little-endian float16; a zero vector stays zero."""
    norm = float(np.linalg.norm(vector))
    return (vector / norm if norm > 0 else vector).astype("<f2").tobytes()
