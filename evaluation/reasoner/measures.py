"""Per-user measures and their intervals: rank of a target, recall and variety of a set, averages over seeds.

Owns the counting. Must not know what a model is beyond its scores or its list.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.intervals import RESAMPLES, interval
from evaluation.reasoner.splits import Case
from models.interactions import Ints

Floats = NDArray[np.float64]
Scores = NDArray[np.float32]
Scorer = Callable[[Sequence[Case]], Scores]
"""Scores (Q, N) of all items for some cases; the caller owns the result."""
BATCH = 256


@dataclass(frozen=True, slots=True)
class Inferred:
    """A user's inferred items, best first, with confidences: rows (S,) and weights (S,), fewer where items ran out."""

    rows: Ints
    confidences: Floats


def strike(scores: Scores, cases: Sequence[Case]) -> Scores:
    """`scores` with each history's items at minus infinity, in place."""
    for row, case in zip(scores, cases, strict=True):
        row[case.history] = -np.inf
    return scores


def ranks_of(scores: Scores, cases: Sequence[Case]) -> Floats:
    """Rank from 0 of each case's first true item (Q,); equal scores count against it half and half."""
    at = scores[np.arange(len(cases)), [case.truth[0] for case in cases]][:, None]
    ranks: Floats = (scores > at).sum(1) + ((scores == at).sum(1) - 1) / 2
    return ranks


def ranks(scorer: Scorer, cases: Sequence[Case], *, among: Ints | None = None) -> Floats:
    """Rank of each case's first true item over all items (or those of `among`), its history taken out."""
    found = [np.zeros(0)]
    for begin in range(0, len(cases), BATCH):
        part = cases[begin : begin + BATCH]
        scores = strike(scorer(part), part)
        if among is not None:
            outside = np.ones(scores.shape[1], dtype=np.bool_)
            outside[among] = False
            scores[:, outside] = -np.inf
        found.append(ranks_of(scores, part))
    return np.concatenate(found)


def hits(ranks: Floats, k: int = 10) -> Floats:
    """Whether the target is among the first `k`."""
    return (ranks < k).astype(np.float64)


def gains(ranks: Floats, k: int = 10) -> Floats:
    """NDCG@k of a single target."""
    return np.where(ranks < k, 1.0 / np.log2(ranks + 2.0), 0.0)


def best(scorer: Scorer, cases: Sequence[Case], count: int, *, weigh: str = "score") -> list[Inferred]:
    """The `count` best new items of each case. Confidences: `score` as it is, or its `softmax` over new items."""
    lists: list[Inferred] = []
    for begin in range(0, len(cases), BATCH):
        part = cases[begin : begin + BATCH]
        for row in strike(scorer(part), part):
            chosen = np.argsort(-row, kind="stable")[:count]
            chosen = chosen[row[chosen] > -np.inf]
            values = row[chosen].astype(np.float64)
            if weigh == "softmax":
                values = np.exp(values - row.max()) / np.exp(row - row.max()).sum()
            lists.append(Inferred(chosen, values))
    return lists


def set_recall(lists: Sequence[Inferred], cases: Sequence[Case]) -> Floats:
    """Share of each case's true items among its inferred ones."""
    each = [np.isin(case.truth, made.rows).sum() / len(case.truth) for made, case in zip(lists, cases, strict=True)]
    return np.array(each)


def diversity(lists: Sequence[Inferred], vectors: NDArray[np.float32]) -> Floats:
    """Mean of 1 - cosine over the pairs of each list; 0 for fewer than two items."""
    each = []
    for made in lists:
        unit, n = vectors[made.rows], len(made.rows)
        total = float(np.square(unit.sum(0)).sum() - np.square(unit).sum())
        each.append(1.0 - total / (n * (n - 1)) if n > 1 else 0.0)
    return np.array(each)


class Tally:
    """Values by measure and user; a user asked under several seeds counts once, with the mean of them."""

    def __init__(self) -> None:
        self._values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, name: str, cases: Sequence[Case], values: Floats) -> None:
        """One seed's values of `cases`."""
        of = self._values[name]
        for case, value in zip(cases, values, strict=True):
            of[case.user].append(float(value))

    def add_ranks(self, name: str, cases: Sequence[Case], ranks: Floats) -> None:
        """HR@10 and NDCG@10 under `name.hr10` and `name.ndcg10`."""
        self.add(f"{name}.hr10", cases, hits(ranks))
        self.add(f"{name}.ndcg10", cases, gains(ranks))

    def names(self) -> list[str]:
        """Measures in the order they were first added."""
        return list(self._values)

    def each(self, name: str) -> Floats:
        """The mean of each user (U,), by user."""
        of = self._values[name]
        return np.array([np.mean(of[user]) for user in sorted(of)])

    def figure(self, name: str) -> dict[str, Any]:
        """Mean over users and its 95 % interval."""
        return _figure(self.each(name))

    def difference(self, name: str, other: str) -> dict[str, Any]:
        """Paired: the mean over users of `name` less `other`, and its interval."""
        if self._values[name].keys() != self._values[other].keys():
            raise ValueError(f"{name} and {other} were not measured on the same users")
        return _figure(self.each(name) - self.each(other))

    def ratio(self, name: str, other: str, *, seed: int = 0) -> dict[str, Any]:
        """Mean of `name` over mean of `other`, users drawn together."""
        above, below = self.each(name), self.each(other)
        drawn = np.random.default_rng(seed).integers(0, len(above), (RESAMPLES, len(above)))
        ratios = above[drawn].mean(1) / np.maximum(below[drawn].mean(1), 1e-9)
        low, high = np.percentile(ratios, [2.5, 97.5])
        value = float(above.mean() / max(below.mean(), 1e-9))
        return {"value": round(value, 4), "interval": [round(float(low), 4), round(float(high), 4)]}


def _figure(values: Floats) -> dict[str, Any]:
    if not len(values):
        return {"value": 0.0, "interval": [0.0, 0.0]}
    return {"value": round(float(values.mean()), 5), "interval": list(interval(values))}
