"""From an event log to the sequences a reasoner is trained and validated on.

Owns row coding, the item cap, the time split, first-occurrence sequences with shuffled ties and batches of windows.
Must not import torch: everything here is NumPy on columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.reasoner.reasoner import UserHistory

Ints = NDArray[np.int64]


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
class TrainingLog:
    """Coded events (E,), sorted by user and time; `items` are rows, `users` run from 0 to `user_count`."""

    users: Ints
    items: Ints
    times: Ints
    user_count: int

    def take(self, which: NDArray[np.bool_]) -> TrainingLog:
        """The events where `which` is true."""
        return TrainingLog(self.users[which], self.items[which], self.times[which], self.user_count)


@dataclass(frozen=True, slots=True)
class Sequences:
    """Sequences of rows, laid end to end in `items`; sequence s is `items[starts[s] : starts[s] + lengths[s]]`."""

    items: Ints
    starts: Ints
    lengths: Ints


@dataclass(frozen=True, slots=True)
class Question:
    """One validation user: what is known, oldest first, and the row to be predicted."""

    history: Ints
    target: int


def code(events: TrainingEvents, rows: Sequence[int] | Ints) -> TrainingLog:
    """Code and sort; `rows` gives each event's item row, -1 for an event to leave out."""
    names: dict[str, int] = {}
    users = np.fromiter((names.setdefault(user, len(names)) for user in events.user_ids), dtype=np.int64)
    items = np.asarray(rows, dtype=np.int64)
    times = np.asarray(events.event_times, dtype=np.int64)
    order = np.lexsort((times, users))
    log = TrainingLog(users[order], items[order], times[order], len(names))
    return log.take(log.items >= 0)


def most_frequent(rows: Ints, count: int) -> Ints:
    """The `count` most frequent rows, the most frequent first, lower row first among equals."""
    counts = np.bincount(rows)
    order = np.argsort(-counts, kind="stable")
    return order[: min(count, int((counts > 0).sum()))]


def split_time(log: TrainingLog, share: float) -> int:
    """The time before which all but `share` of the events lie."""
    return int(np.quantile(log.times, 1.0 - share, method="lower")) if len(log.times) else 0


def sequences(log: TrainingLog, rng: np.random.Generator, *, distinct: bool) -> Sequences:
    """Each user's items by time, ties of user and time in a fresh random order.

    `distinct` keeps an item's first event only: then the next item is always one beyond the log.
    """
    order = np.lexsort((rng.random(len(log.times)), log.times, log.users))
    users, items = log.users[order], log.items[order]
    if distinct:
        span = int(items.max(initial=0)) + 1
        _, first = np.unique(users * span + items, return_index=True)
        first.sort()
        users, items = users[first], items[first]
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    lengths = np.diff(starts, append=len(users))
    return Sequences(items, starts, lengths)


def first_events(rows: Ints) -> Ints:
    """Distinct rows in the order of their first events."""
    kept: Ints = rows[first_places(rows)]
    return kept


def first_places(rows: Ints) -> Ints:
    """Where the first event of each distinct row stands, ascending."""
    _, first = np.unique(rows, return_index=True)
    places: Ints = np.sort(first)
    return places


def padded(histories: Sequence[Ints]) -> tuple[Ints, Ints]:
    """Rows (B, L) of histories, padded on the right with 0, and their lengths (B,)."""
    lengths = np.array([len(rows) for rows in histories], dtype=np.int64)
    together = np.zeros((len(histories), lengths.max(initial=0)), dtype=np.int64)
    for user, rows in enumerate(histories):
        together[user, : len(rows)] = rows
    return together, lengths


def windows(sequences: Sequences, length: int, batch: int, rng: np.random.Generator) -> Iterator[tuple[Ints, Ints]]:
    """One epoch of random windows: rows (B, T) padded with 0, and their lengths (B,).

    A sequence comes once per started `length` of its items, each time at a random place.
    """
    often = np.where(sequences.lengths >= 2, -(-sequences.lengths // length), 0)
    order = rng.permutation(np.repeat(np.arange(len(often)), often))
    places = np.arange(length)
    for begin in range(0, len(order), batch):
        chosen = order[begin : begin + batch]
        lengths = np.minimum(sequences.lengths[chosen], length)
        spare = sequences.lengths[chosen] - lengths
        starts = sequences.starts[chosen] + (rng.random(len(chosen)) * (spare + 1)).astype(np.int64)
        at = np.minimum(starts[:, None] + places, len(sequences.items) - 1)
        yield np.where(places < lengths[:, None], sequences.items[at], 0), lengths


def questions(
    log: TrainingLog, split: int, limit: int, rng: np.random.Generator
) -> tuple[list[Question], list[Question]]:
    """Leave-last-out after the time `split`: (next item never seen by the user, next item of any kind).

    A user counts with at least one event before the split, which the model may have seen, and one after, which it has
    not. History is everything before the target; ties are shuffled.
    """
    order = np.lexsort((rng.random(len(log.times)), log.times, log.users))
    users, items, times = log.users[order], log.items[order], log.times[order]
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    ends = np.append(starts[1:], len(users))
    novel: list[Question] = []
    every: list[Question] = []
    for pick in rng.permutation(len(starts)):
        begin, end = starts[pick], ends[pick]
        if len(every) >= limit or not times[begin] < split <= times[end - 1]:
            continue
        mine = items[begin:end]
        every.append(Question(mine[:-1], int(mine[-1])))
        _, first = np.unique(mine, return_index=True)
        last = int(first.max())
        if last > 0 and times[begin + last] >= split:
            novel.append(Question(mine[:last], int(mine[last])))
    return novel, every
