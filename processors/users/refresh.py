"""Refresh users: from histories to `UserFeatures` with log vector, inferred vector and behaviors.

Owns how vectors are weighted, normalized and packed, and which reasoner answers for whom. Must not choose who is due,
nor load or store anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from freshet.records import UserFeatures
from models.reasoner.catalogue import Catalogue
from models.reasoner.reasoner import BehaviorReasoner, Inference, LearnsOnline, UserHistory

HALF_LIFE_EVENTS = 32.0
"""An event this many places back weighs half. Places, not days: a user who paused is not forgotten."""

Vectors = NDArray[np.float32]


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
        """Features of each user, in order; a user with no known item gets zero vectors and no behaviors."""
        answers = self._infer(histories, catalogue)
        logs = packed(log_vectors([history.item_ids for history in histories], catalogue, self._half_life_events))
        inferred = packed(inferred_vectors([inference for _, inference in answers], catalogue))
        return [
            UserFeatures(
                user_id=history.user_id,
                version=self._version,
                tier=int(reasoner.tier),
                event_time=max(history.event_times, default=0),
                computed_time=self._clock(),
                dims=catalogue.dims,
                log_vector=log_vector,
                inferred_vector=inferred_vector,
                behaviors=inference.behaviors,
                reasoner=reasoner.name,
                history_length=len(history.item_ids),
                degraded=inference.degraded,
            )
            for history, (reasoner, inference), log_vector, inferred_vector in zip(
                histories, answers, logs, inferred, strict=True
            )
        ]

    def _infer(
        self, histories: Sequence[UserHistory], catalogue: Catalogue
    ) -> list[tuple[BehaviorReasoner, Inference]]:
        """Who answers for each user, and what; all reasoners share one deadline."""
        for reasoner in self._reasoners:
            if isinstance(reasoner, LearnsOnline):
                reasoner.observe(histories)
        began = time.monotonic()
        answers: list[tuple[BehaviorReasoner, Inference]] = []
        open_ = list(range(len(histories)))
        for position, reasoner in enumerate(self._reasoners):
            spent_s = time.monotonic() - began
            inferred = reasoner.infer(
                [histories[i] for i in open_],
                catalogue,
                slots=self._slots,
                steps=self._steps,
                deadline_s=None if self._deadline_s is None else max(0.0, self._deadline_s - spent_s),
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
        return answers


def log_vectors(histories: Sequence[Sequence[str]], catalogue: Catalogue, half_life_events: float) -> Vectors:
    """(U, dims), not normalized: the sum of each history's known items, halved every `half_life_events` places back."""
    longest = max(map(len, histories), default=0)
    weights = np.exp2(np.arange(1 - longest, 1) / half_life_events).astype(np.float32)  # (N,), the newest weighs 1
    return weighted_sums(histories, [weights[longest - len(history) :] for history in histories], catalogue)


def inferred_vectors(inferences: Sequence[Inference], catalogue: Catalogue) -> Vectors:
    """(U, dims), not normalized: the sum of each user's behaviors, weighted by confidence; words bring their own."""
    sums = weighted_sums(
        [[behavior.item_id for behavior in inference.behaviors] for inference in inferences],
        [np.array([b.confidence for b in inference.behaviors], dtype=np.float32) for inference in inferences],
        catalogue,
    )
    for user, inference in enumerate(inferences):
        if inference.text_vector is not None:
            sums[user] += inference.text_vector
    return sums


def weighted_sums(items: Sequence[Sequence[str]], weights: Sequence[Vectors], catalogue: Catalogue) -> Vectors:
    """(U, dims): each user's weights (N,) times the vectors of that user's N items, zeros where an item is unknown."""
    sums = np.zeros((len(items), catalogue.dims), dtype=np.float32)
    # One look-up for all users, one product each: half the time of both per user.
    rows = catalogue.rows([item_id for each in items for item_id in each])
    start = 0
    for user, each in enumerate(items):
        mine = rows[start : start + len(each)]
        start += len(each)
        vectors, _ = catalogue.at(mine)  # (N, dims)
        sums[user] = weights[user] @ vectors
    return sums


def packed(vectors: Vectors) -> list[bytes]:
    """Each row L2-normalized, as little-endian float16; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return [row.tobytes() for row in (vectors / np.where(norms > 0, norms, 1)).astype("<f2")]
