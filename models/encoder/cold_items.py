"""Cold items: those first seen after a moment, what they turned out to be bought with, and who bought them.

Owns the time split, the truth and the measures by which an item's vector is judged before anybody has clicked it. Must
not know where vectors come from, nor import torch. Events before the split may be learned from; those after it are
truth alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.encoder.pairs import DAY_MS
from models.reasoner.sequences import Ints, TrainingLog

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdConfig:
    """Which items count and what is true of them.

    A basket is what a user bought on one day. A cold item needs `least_baskets` of them; its truth is the `top` known
    items with the highest damped lift, `together / (baskets of the known item + damping)`, among those it shared
    `least_together` baskets with.
    """

    known: int = 900
    cold: int = 1_000
    least_baskets: int = 10
    top: int = 20
    damping: float = 50.0
    least_together: int = 2


@dataclass(frozen=True, slots=True, eq=False)
class ColdItems:
    """`cold` (C,) and `known` (K,) rows, most baskets first, and `truth` (C, K): was it truly bought with."""

    cold: Ints
    known: Ints
    truth: Bools

    def recall(self, scores: NDArray[np.floating], k: int = 50) -> Floats:
        """Share of each cold item's truth among its `k` best known items (C,), from scores (C, K)."""
        return recall_at(scores, self.truth, k)

    def ndcg(self, scores: NDArray[np.floating], k: int = 20) -> Floats:
        """NDCG of each cold item's `k` best known items (C,)."""
        best = _best(scores, k)
        gains = np.take_along_axis(self.truth, best, axis=1)
        discounts = 1 / np.log2(np.arange(2, best.shape[1] + 2))
        ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(self.truth.sum(1), best.shape[1])]
        ndcg: Floats = (gains * discounts).sum(1) / np.maximum(ideal, 1e-9)
        return ndcg


@dataclass(frozen=True, slots=True, eq=False)
class ColdBuyers:
    """Users who bought cold items: their newest known rows before the split (-1 pads), and what they bought of them.

    `histories` (U, H) rows, `bought` (U, C) with a column per cold item of the same `ColdItems`.
    """

    histories: Ints
    bought: Bools

    def vectors(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean vector of each history (U, dims), from item vectors (N, dims)."""
        there = self.histories >= 0
        sums = (vectors[np.maximum(self.histories, 0)] * there[..., None]).sum(1)
        mean: NDArray[np.float32] = (sums / np.maximum(there.sum(1, keepdims=True), 1)).astype(np.float32)
        return mean

    def recall(self, scores: NDArray[np.floating], k: int = 10) -> Floats:
        """Share of each user's cold purchases among the `k` best cold items (U,), from scores (U, C)."""
        return recall_at(scores, self.bought, k)


def recall_at(scores: NDArray[np.floating], truth: Bools, k: int) -> Floats:
    """Share of each row's truth among its `k` highest scores; equal scores in column order."""
    hits = np.take_along_axis(truth, _best(scores, k), axis=1).sum(1)
    recall: Floats = hits / np.maximum(truth.sum(1), 1)
    return recall


def cold_items(log: TrainingLog, rows: int, split: int, config: ColdConfig) -> ColdItems:
    """Items of `log` (rows below `rows`) first seen at `split` (milliseconds) or later, and their truth.

    Cold items that were bought with nothing known often enough are left out.
    """
    days = _distinct(log, rows)
    first = np.full(rows, np.iinfo(np.int64).max)
    np.minimum.at(first, log.items, log.times)
    after = days.times >= split // DAY_MS
    seen = np.bincount(days.items[~after & (first[days.items] < split)], minlength=rows)
    met = np.bincount(days.items[after], minlength=rows)
    known = _most(seen, config.known, 1)
    cold = _most(np.where(first >= split, met, 0), config.cold, config.least_baskets)
    return _with_truth(days.take(after), rows, cold, known, config)


def held_out(log: TrainingLog, rows: int, share: float, rng: np.random.Generator, config: ColdConfig) -> ColdItems:
    """A random `share` of the items with enough baskets as if they were cold, over the whole log.

    For a log in which too few items are new. Whoever learns from the log must leave the held-out items' events out.
    """
    days = _distinct(log, rows)
    met = np.bincount(days.items, minlength=rows)
    bought = _most(met, rows, config.least_baskets)
    cold = np.sort(rng.choice(bought, min(config.cold, int(len(bought) * share)), replace=False))
    known = _most(np.where(np.isin(np.arange(rows), cold), 0, met), config.known, 1)
    return _with_truth(days, rows, cold, known, config)


def _with_truth(days: TrainingLog, rows: int, cold: Ints, known: Ints, config: ColdConfig) -> ColdItems:
    met = np.bincount(days.items, minlength=rows)
    together = _together(days, rows, cold, known)  # (C, K)
    lift = np.where(together >= config.least_together, together / (met[known] + config.damping), 0.0)
    best = _best(lift, config.top)
    truth = np.zeros(lift.shape, dtype=np.bool_)
    np.put_along_axis(truth, best, np.take_along_axis(lift, best, axis=1) > 0, axis=1)
    kept = truth.any(1)
    return ColdItems(cold[kept], known, truth[kept])


def cold_buyers(
    log: TrainingLog, items: ColdItems, rows: int, split: int, *, history: int = 50, least: int = 5
) -> ColdBuyers:
    """Users with at least `least` known items before `split` who bought a cold item afterwards."""
    place = np.full(rows, -1, dtype=np.int64)
    place[items.cold] = np.arange(len(items.cold))
    is_known = np.zeros(rows, dtype=np.bool_)
    is_known[items.known] = True
    past = log.take((log.times < split) & is_known[log.items])
    bought = np.zeros((log.user_count, len(items.cold)), dtype=np.bool_)
    later = log.take((log.times >= split) & (place[log.items] >= 0))
    bought[later.users, place[later.items]] = True
    histories = np.full((log.user_count, history), -1, dtype=np.int64)
    starts = np.searchsorted(past.users, np.arange(log.user_count + 1))
    for user in np.flatnonzero(bought.any(1)):
        mine = past.items[starts[user] : starts[user + 1]][::-1]  # newest first
        _, first = np.unique(mine, return_index=True)
        newest = mine[np.sort(first)[:history]]
        histories[user, : len(newest)] = newest
    kept = bought.any(1) & ((histories >= 0).sum(1) >= least)
    return ColdBuyers(histories[kept], bought[kept])


def _distinct(log: TrainingLog, rows: int) -> TrainingLog:
    """One event per user, day and item; times become days since the epoch, in order of user and day."""
    days = log.times // DAY_MS
    order = np.lexsort((log.items, days, log.users))
    users, items, days = log.users[order], log.items[order], days[order]
    new = np.ones(len(users), dtype=np.bool_)
    new[1:] = (np.diff(users) != 0) | (np.diff(items) != 0) | (np.diff(days) != 0)
    return TrainingLog(users[new], items[new], days[new], log.user_count)


def _most(counts: Ints, limit: int, least: int) -> Ints:
    order = np.argsort(-counts, kind="stable")[:limit]
    return order[counts[order] >= least]


def _together(days: TrainingLog, rows: int, cold: Ints, known: Ints) -> Ints:
    """How many baskets each cold item shared with each known one (C, K)."""
    cold_at, known_at = np.full(rows, -1, dtype=np.int64), np.full(rows, -1, dtype=np.int64)
    cold_at[cold], known_at[known] = np.arange(len(cold)), np.arange(len(known))
    starts = np.flatnonzero((np.diff(days.users, prepend=-1) != 0) | (np.diff(days.times, prepend=-1) != 0))
    basket = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(days.users)))
    ends = np.append(starts[1:], len(days.users))
    together = np.zeros((len(cold), len(known)), dtype=np.int64)
    for event in np.flatnonzero(cold_at[days.items] >= 0):
        others = known_at[days.items[starts[basket[event]] : ends[basket[event]]]]
        together[cold_at[days.items[event]], others[others >= 0]] += 1
    return together


def _best(scores: NDArray[np.floating], k: int) -> Ints:
    """Columns of the `k` highest scores of each row, best first; lower column first among equals."""
    return np.argsort(-np.asarray(scores, dtype=np.float64), axis=1, kind="stable")[:, :k]
