"""Which items are engaged with together: pairs of one user's events within a window of time, counted.

Owns the counting and how popularity is damped. Everything here is NumPy on columns; must not import torch nor know
what an item is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.reasoner.sequences import Ints, TrainingLog

DAY_MS = 86_400_000


class NothingToLearn(ValueError):
    """The log holds no pairs to learn from; the message says what is missing."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Counted pairs of rows, each once in either direction, sorted by `left` and then `right`.

    `left`, `right` (P,) rows, `counts` (P,) how often they met, `totals` (N,) engagements of each row.
    """

    left: Ints
    right: Ints
    counts: Ints
    totals: Ints

    def __len__(self) -> int:
        return len(self.left)

    def starts(self) -> Ints:
        """Where each row's pairs begin (N + 1,): those of row r are `starts[r] : starts[r + 1]`."""
        return np.searchsorted(self.left, np.arange(len(self.totals) + 1))

    def lift(self, damping: float) -> NDArray[np.float64]:
        """Damped lift (P,): `count / sqrt((total_left + d)(total_right + d))`; without damping rare pairs rule."""
        totals = self.totals + damping
        lift: NDArray[np.float64] = self.counts / np.sqrt(totals[self.left] * totals[self.right])
        return lift

    def where(self, which: NDArray[np.bool_]) -> Pairs:
        """The pairs where `which` (P,) is true; totals stay."""
        return Pairs(self.left[which], self.right[which], self.counts[which], self.totals)


def co_engaged(
    log: TrainingLog, rows: int, rng: np.random.Generator, *, window_ms: int = DAY_MS, reach: int = 40
) -> Pairs:
    """Pairs of different rows (of `rows` in all) that one user engaged with at most `window_ms` apart.

    An event meets at most the `reach` events that follow it, so that a wholesaler's basket of 500 lines costs 500 x
    `reach` pairs and not 125,000; events of one moment are shuffled first, so that it is a fair sample.
    """
    order = np.lexsort((rng.random(len(log.times)), log.times, log.users))
    users, items, times = log.users[order], log.items[order], log.times[order]
    codes, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for lag in range(1, min(reach, len(items) - 1) + 1):
        near = (users[lag:] == users[:-lag]) & (times[lag:] - times[:-lag] <= window_ms) & (items[lag:] != items[:-lag])
        if not near.any() and not (users[lag:] == users[:-lag]).any():
            break
        low = np.minimum(items[lag:], items[:-lag])[near]
        high = np.maximum(items[lag:], items[:-lag])[near]
        codes, counts = _merged(codes, counts, low * rows + high)
    left, right = np.divmod(codes, rows)
    both = np.concatenate([codes, right * rows + left])
    order = np.argsort(both, kind="stable")
    left, right = np.divmod(both[order], rows)
    totals = np.bincount(items, minlength=rows).astype(np.int64)
    return Pairs(left, right, np.concatenate([counts, counts])[order], totals)


def _merged(codes: Ints, counts: Ints, more: Ints) -> tuple[Ints, Ints]:
    """Counts of `codes` with one added for each of `more`."""
    new, times = np.unique(more, return_counts=True)
    merged, place = np.unique(np.concatenate([codes, new]), return_inverse=True)
    summed = np.zeros(len(merged), dtype=np.int64)
    np.add.at(summed, place, np.concatenate([counts, times]))
    return merged, summed
