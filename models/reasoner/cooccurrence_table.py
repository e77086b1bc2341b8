"""What was done near an item in other users' histories, as an offset to the network's scores.

Owns the table of windowed co-occurrence, how it is counted, and the offset of a history. A small network learns rare
pairs slowly, and counting knows them at once: the logits of both are added. Must not know the network. The score is
that of `models.reasoner.cooccurrence`, frozen at training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.reasoner.sequences import Ints, TrainingLog, sequences

FLOOR = 1e-3
"""Share of a history's summed score that counts as none: log(1 + share / FLOOR) runs from 0 to about 7."""
SPAN = 2**40
"""Between the keys of two users: more than there are rows."""
SHUFFLES = 3
"""Orders in which events of one time are counted: a basket larger than the window is seen in parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighborConfig:
    """Pairs at most `window` events apart count 1 / distance; an item `half_life` places back weighs half.

    `damping` 0 favors frequent neighbors, 0.5 is a cosine. The `most` best neighbors of an item are kept.
    """

    window: int = 10
    most: int = 100
    half_life: float = 6.0
    damping: float = 0.5


@dataclass(frozen=True, slots=True)
class NeighborTable:
    """Per item its neighbors: `rows` (N, K), -1 where there are fewer, and `weights` (N, K)."""

    rows: Tensor
    weights: Tensor
    half_life: float

    @property
    def reach(self) -> int:
        """How many of a history's newest items count: what stands further back weighs less than a 32nd."""
        return max(1, round(5 * self.half_life))

    def of(self, history: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Neighbors and weights, both (B, M * K), of histories (B, L) padded on the right to `lengths` (B,).

        -1 in a history is an item nothing is known of. The same neighbor may come several times; absent ones have
        weight 0 and row 0. Weights sum to 1 per user, or 0.
        """
        back = torch.arange(min(history.shape[1], self.reach))
        at = lengths[:, None] - 1 - back  # (B, M)
        read = torch.where(at >= 0, history.gather(1, at.clamp(min=0)), -1)
        known = read >= 0
        rows, weights = self.rows[read.clamp(min=0)], self.weights[read.clamp(min=0)]  # (B, M, K)
        present = known[..., None] & (rows >= 0)
        decay = torch.exp2(-back / self.half_life)
        weights = torch.where(present, weights * decay[:, None], 0.0).flatten(1)
        rows = torch.where(present, rows, 0).flatten(1)
        return rows, weights / weights.sum(1, keepdim=True).clamp(min=1e-30)

    def offset(self, history: Tensor, lengths: Tensor, items: int) -> Tensor:
        """Offsets (B, items) of histories (B, L), see `Offset`."""
        return Offset(*self.of(history, lengths)).dense(items)


@dataclass(frozen=True)
class Offset:
    """log(1 + share / FLOOR) of each item's share of a user's summed score; 0 for what is no neighbor.

    `rows` (B, E) may hold an item several times, its `shares` (B, E) count together.
    """

    rows: Tensor
    shares: Tensor

    def dense(self, items: int) -> Tensor:
        """Of all items (B, items)."""
        summed = torch.zeros(len(self.rows), items).scatter_add_(1, self.rows, self.shares)
        return summed.div_(FLOOR).log1p_()

    def at(self, rows: Tensor) -> Tensor:
        """Of some items (B, K), 0 where the row is -1."""
        keys, sums = self._summed
        wanted = rows + torch.arange(len(rows))[:, None] * SPAN
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        found = (keys[place] == wanted) & (rows >= 0)
        return torch.where(found, sums[place], 0.0).div_(FLOOR).log1p_()

    def best(self, count: int) -> Tensor:
        """The `count` rows (B, count) with the largest shares, each once, -1 where there are fewer."""
        keys, sums = self._summed
        user = keys // SPAN  # ascending
        rank = torch.arange(len(user)) - torch.searchsorted(user, user)
        spread = torch.zeros(len(self.rows), max(count, int(rank.max()) + 1))
        spread[user, rank] = sums
        values, at = spread.topk(count, dim=1)
        first = torch.searchsorted(user, torch.arange(len(self.rows)))  # every user has at least one key
        rows = keys[(first[:, None] + at).clamp(max=len(keys) - 1)] % SPAN
        return torch.where(values > 0, rows, -1)

    @cached_property
    def _summed(self) -> tuple[Tensor, Tensor]:
        """Each user and row once, as ascending keys, and the sum of its shares."""
        keys, inverse = torch.unique(self.rows + torch.arange(len(self.rows))[:, None] * SPAN, return_inverse=True)
        return keys, torch.zeros(len(keys)).scatter_add_(0, inverse.flatten(), self.shares.flatten())


Pairs = tuple[Ints, NDArray[np.float64]]
"""Keys, left * items + right, each once, and counts."""


def count_pairs(log: TrainingLog, items: int, rng: np.random.Generator, *, distinct: bool, window: int) -> Pairs:
    """Pairs of items at most `window` events apart, both ways, each worth 1 / distance."""
    summed: Pairs = (np.zeros(0, dtype=np.int64), np.zeros(0))
    for _ in range(SHUFFLES):
        keys, values = [summed[0]], [summed[1]]
        made = sequences(log, rng, distinct=distinct)
        owner = np.repeat(np.arange(len(made.starts)), made.lengths)
        for distance in range(1, min(window, len(made.items) - 1) + 1):
            left, right = made.items[:-distance], made.items[distance:]
            kept = (owner[:-distance] == owner[distance:]) & (left != right)
            left, right = left[kept], right[kept]
            keys.append(np.concatenate([left * items + right, right * items + left]))
            values.append(np.full(2 * len(left), 1 / (distance * SHUFFLES)))
        unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
        summed = unique, np.bincount(inverse, np.concatenate(values), minlength=len(unique)).astype(np.float64)
    return summed


def neighbors(pairs: Pairs, items: int, config: NeighborConfig) -> NeighborTable:
    """The table of `count_pairs`' pairs."""
    key, value = pairs
    left, right = key // items, key % items
    total = np.maximum(np.bincount(left, value, minlength=items), 1e-30)
    score = value / np.sqrt(total[left]) / total[right] ** config.damping
    order = np.lexsort((-score, left))
    left, right, score = left[order], right[order], score[order]
    rank = np.arange(len(left)) - np.searchsorted(left, left)
    kept = rank < config.most
    rows = np.full((items, config.most), -1)
    weights = np.zeros((items, config.most), dtype=np.float32)
    rows[left[kept], rank[kept]] = right[kept]
    weights[left[kept], rank[kept]] = score[kept]
    return NeighborTable(torch.from_numpy(rows), torch.from_numpy(weights), config.half_life)
