"""What is learned from and what is asked: leave-last-out, time split, leave-last-16-out, cold items, hidden categories.

Owns that nothing asked about is in the training log. Must not train or score. Events of one user and moment have no
order of their own: each call shuffles them, so that a seed decides which of a basket's items is the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.reasoner.sequences import Ints, TrainingLog, first_places

Bools = NDArray[np.bool_]
LEAST_ITEMS = 5
"""Users with fewer different items are learned from, not asked about."""
NEXT = 16
"""How many of a user's next new items are to be found."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A user's events before a moment, oldest first, and `truth`: the new items that followed, in order."""

    user: int
    history: Ints
    times: Ints
    truth: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """`train` to learn from, `test` to be judged on, `validation` to choose settings with."""

    train: TrainingLog
    test: Sequence[Case]
    validation: Sequence[Case] = ()


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """One training log for two questions: `cold` items (rows `cold_items`) and `hidden` categories.

    `hidden_category[k]` is what `hidden[k]` must guess; its truth are the items taken out of the history.
    """

    train: TrainingLog
    cold_items: Ints
    cold: Sequence[Case]
    hidden: Sequence[Case]
    hidden_category: Sequence[int] = field(default_factory=list)


def leave_last(log: TrainingLog, rng: np.random.Generator, *, least: int = LEAST_ITEMS) -> Split:
    """Each user's last new item is asked in `test`, the one before it in `validation`; `train` ends before both."""
    log = shuffled(log, rng)
    keep = np.ones(len(log.items), dtype=np.bool_)
    validation: list[Case] = []
    test: list[Case] = []
    for user, begin, end in spans(log):
        items, times = log.items[begin:end], log.times[begin:end]
        first = first_places(items)
        if len(first) < least:
            continue
        for place, cases in ((first[-2], validation), (first[-1], test)):
            cases.append(Case(user, items[:place], times[:place], items[place : place + 1]))
        keep[begin + first[-2] : end] = False
    return Split(log.take(keep), test, validation)


def leave_last_many(log: TrainingLog, rng: np.random.Generator, *, count: int = NEXT) -> Split:
    """The last `count` new items of each user who has at least twice as many."""
    log = shuffled(log, rng)
    keep = np.ones(len(log.items), dtype=np.bool_)
    test = []
    for user, begin, end in spans(log):
        items, times = log.items[begin:end], log.times[begin:end]
        first = first_places(items)
        if len(first) >= 2 * count:
            place = first[-count]
            test.append(Case(user, items[:place], times[:place], items[first[-count:]]))
            keep[begin + place : end] = False
    return Split(log.take(keep), test)


def time_split(log: TrainingLog, rng: np.random.Generator, *, share: float = 0.2, count: int = NEXT) -> Split:
    """Train before the moment after which `share` of the events lie; ask users with events on both sides.

    Truth are the first `count` items after it that the user did not have before.
    """
    log = shuffled(log, rng)
    timestamp = int(np.quantile(log.times, 1.0 - share, method="lower"))
    test = []
    for user, begin, end in spans(log):
        items, times = log.items[begin:end], log.times[begin:end]
        place = int(np.searchsorted(times, timestamp))
        first = first_places(items)
        new = items[first[first >= place]][:count]
        if place > 0 and len(new):
            test.append(Case(user, items[:place], times[:place], new))
    return Split(log.take(log.times < timestamp), test)


def held_out(
    log: TrainingLog,
    categories: Bools,
    rng: np.random.Generator,
    *,
    cold_share: float = 0.1,
    part: tuple[int, int] = (0, 3),
    least: int = LEAST_ITEMS,
) -> HeldOut:
    """Cold items, never trained; and users (the share `part` = k-th of n) one category of whom was taken out.

    Cold are items with at least `least` events: those first seen in the later half of the log, filled up with random
    ones. A user with cold items is asked for the last of them and is learned from only before it. A hidden category
    has at least 3 of the user's warm items and leaves `least`.
    """
    log = shuffled(log, rng)
    cold = np.zeros(len(categories), dtype=np.bool_)
    cold[cold_rows(log, len(categories), rng, share=cold_share, least=least)] = True
    turn = np.random.default_rng(0).permutation(log.user_count)  # every seed its own part of the users
    keep = ~cold[log.items]
    cold_cases, hidden, hidden_category = [], [], []
    for user, begin, end in spans(log):
        items, times = log.items[begin:end], log.times[begin:end]
        mine = keep[begin:end]
        first = first_places(items)
        asked = first[cold[items[first]]]
        if len(asked) and len(np.unique(items[: asked[-1]])) >= least:
            place = int(asked[-1])
            cold_cases.append(Case(user, items[:place], times[:place], items[place : place + 1]))
            mine[place:] = False
        if turn[user] % part[1] == part[0]:
            category = hideable(items[mine], categories, rng, least)
            if category is not None:
                out = mine & categories[items, category]
                mine &= ~out
                hidden.append(Case(user, items[mine], times[mine], np.unique(items[out])))
                hidden_category.append(category)
    return HeldOut(log.take(keep), np.flatnonzero(cold), cold_cases, hidden, hidden_category)


def cold_rows(log: TrainingLog, rows: int, rng: np.random.Generator, *, share: float, least: int) -> Ints:
    """A `share` of the items with at least `least` events: first seen late first, then at random."""
    counts = np.bincount(log.items, minlength=rows)
    seen = np.full(rows, np.iinfo(np.int64).max)
    np.minimum.at(seen, log.items, log.times)
    usable = rng.permutation(np.flatnonzero(counts >= least))
    late = seen[usable] > np.median(log.times)
    chosen: Ints = np.concatenate([usable[late], usable[~late]])[: round(share * len(usable))]
    return np.sort(chosen)


def hideable(items: Ints, categories: Bools, rng: np.random.Generator, least: int) -> int | None:
    """A random category with at least 3 of these items that leaves `least`; None where there is none."""
    mine = np.unique(items)
    sizes = categories[mine].sum(0)
    fit = np.flatnonzero((sizes >= 3) & (len(mine) - sizes >= least))
    return int(rng.choice(fit)) if len(fit) else None


def shuffled(log: TrainingLog, rng: np.random.Generator) -> TrainingLog:
    """The log by user and time, ties in a fresh random order."""
    order = np.lexsort((rng.random(len(log.times)), log.times, log.users))
    return TrainingLog(log.users[order], log.items[order], log.times[order], log.user_count)


def spans(log: TrainingLog) -> Iterator[tuple[int, int, int]]:
    """User, begin and end of each user's events in a sorted log."""
    starts = np.flatnonzero(np.diff(log.users, prepend=-1))
    for begin, end in zip(starts, np.append(starts[1:], len(log.users)), strict=True):
        yield int(log.users[begin]), int(begin), int(end)
