"""Engagement logs by columns: what encoders and reasoners learn from, and what a user's history is.

Owns the value types and how ids become rows. Must not import torch: everything here is NumPy on columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class UserHistory(Protocol):
    """A user's newest events, oldest first; `store.histories.History` is one."""

    @property
    def user_id(self) -> str: ...

    @property
    def item_ids(self) -> Sequence[str]: ...

    @property
    def event_times(self) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True)
class TrainingEvents:
    """An event log by columns, in any order: user ids, item ids, event times in milliseconds."""

    user_ids: Sequence[str]
    item_ids: Sequence[str]
    event_times: Ints

    @classmethod
    def of_histories(cls, histories: Sequence[UserHistory]) -> TrainingEvents:
        """The events of histories."""
        users = [history.user_id for history in histories for _ in history.item_ids]
        items = [item_id for history in histories for item_id in history.item_ids]
        times = np.array([time for history in histories for time in history.event_times], dtype=np.int64)
        return cls(users, items, times)


@dataclass(frozen=True, slots=True)
class InteractionLog:
    """Events (E,) as rows, sorted by user and time; `items` are item rows, `users` run from 0 to `user_count`."""

    users: Ints
    items: Ints
    times: Ints
    user_count: int

    def take(self, which: NDArray[np.bool_]) -> InteractionLog:
        """The events where `which` (E,) is true."""
        return InteractionLog(self.users[which], self.items[which], self.times[which], self.user_count)


def code(events: TrainingEvents, rows: Sequence[int] | Ints) -> InteractionLog:
    """Number the users and sort; `rows` gives each event's item row, -1 for an event to leave out."""
    numbers: dict[str, int] = {}
    users = np.fromiter((numbers.setdefault(user, len(numbers)) for user in events.user_ids), dtype=np.int64)
    items = np.asarray(rows, dtype=np.int64)
    times = np.asarray(events.event_times, dtype=np.int64)
    order = np.lexsort((times, users))
    log = InteractionLog(users[order], items[order], times[order], len(numbers))
    return log.take(log.items >= 0)


def most_frequent(rows: Ints, count: int) -> Ints:
    """The `count` most frequent rows, the most frequent first, lower row first among equals."""
    counts = np.bincount(rows)
    order = np.argsort(-counts, kind="stable")
    return order[: min(count, int((counts > 0).sum()))]


def split_time(log: InteractionLog, share: float) -> int:
    """The time before which all but `share` of the events lie."""
    return int(np.quantile(log.times, 1.0 - share, method="lower")) if len(log.times) else 0
