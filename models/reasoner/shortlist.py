"""Shortlists: of a large catalogue, the few items that can win a user's slots, and an estimate of all the others.

Owns a copy of the item embeddings in half precision, the scan that finds the best of them, and the probability mass of
what it leaves out. Must not know the network, the sampler or what a row stands for. An exact scan, not an index: up to
a million items k-means cells and semantic IDs save less than they cost (docs/reports/catalogue-scale.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.encoder.encoder import fast_bfloat16

GROUP = 32
"""Items per group: the maxima of groups cost little while scores are in cache, and leave 32 times fewer to sort."""
CHUNK = 16_384
"""Items scored at once (2 MB for 64 users): in one piece the scan takes twice as long."""
SCORES_AT_ONCE = 64_000_000
"""Scores kept during a scan (128 MB): 64 users of a million items."""
SAMPLE = 512
"""Items that stand for all those outside a shortlist."""
GOLDEN = 2_654_435_769
"""2^32 over the golden ratio: multiples of it, mod 2^32, spread evenly over whatever order the rows have."""

Pairs = tuple[Tensor, Tensor]
"""Places among the users (M,) and, for each, an item row (M,)."""
NOTHING: Pairs = (torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))


@dataclass(frozen=True, slots=True)
class Shortlist:
    """`rows` (B, K): each user's best items, no row twice, in no order, -1 where there are fewer.

    `others` (M, width) are embeddings of a sample of all items, `weights` (B, M) their biases plus the log of how many
    items each stands for, -inf where it stands in the shortlist itself or is forbidden.
    """

    rows: Tensor
    others: Tensor
    weights: Tensor

    def rest(self, states: Tensor) -> Tensor:
        """Log of the unnormalized mass (B, m) of all items outside the shortlist, for states (B, m, width).

        Without it a probability within the shortlist is many times too large, and by a different factor in each slot.
        """
        return (functional.linear(states, self.others) + self.weights[:, None]).logsumexp(-1)


class CandidateIndex:
    """Item embeddings and biases by row. Updates count from the next call; one caller at a time.

    `dtype` None: bfloat16 where the CPU computes in it (half the memory, five times as fast), else float32. Rounding
    moves items in and out at the far end of a shortlist alone.
    """

    def __init__(self, width: int, *, dtype: torch.dtype | None = None) -> None:
        self.size = 0
        self._width = width
        self._dtype = dtype or (torch.bfloat16 if fast_bfloat16() else torch.float32)
        self._table = torch.zeros(0, width + 1, dtype=self._dtype)  # the last column is the bias
        self._scores = torch.zeros(0, dtype=self._dtype)
        self._sample: Tensor | None = None
        self._alive = 0

    @torch.inference_mode()
    def update(self, rows: Tensor, embeddings: Tensor, bias: Tensor) -> None:
        """Write embeddings (M, width) and biases (M,) of rows (M,), new or known; bias -inf removes an item."""
        if not len(rows):
            return
        self._reserve(int(rows.max()) + 1)
        gone = bias == -torch.inf
        self._table[rows, : self._width] = embeddings.masked_fill(gone[:, None], 0.0).to(self._dtype)
        self._table[rows, self._width] = bias.to(self._dtype)
        self._sample = None

    @torch.inference_mode()
    def shortlist(self, states: Tensor, count: int, forbidden: Pairs | None = None) -> Shortlist:
        """For each state (B, width), the `count` allowed items with the highest `state @ embedding + bias`.

        A state that stands for a block of slots is the mean of the states that predict them: their common shortlist
        holds more of what wins than that of the first slot.
        """
        query = torch.cat([states, torch.ones_like(states[:, :1])], dim=1).to(self._dtype)
        at_once = max(1, SCORES_AT_ONCE // max(1, self._scanned))
        users, struck = NOTHING if forbidden is None else forbidden
        parts = []
        for begin in range(0, len(query), at_once):
            mine = (users >= begin) & (users < begin + at_once)
            parts.append(self._scan(query[begin : begin + at_once], count, (users[mine] - begin, struck[mine])))
        rows = torch.cat(parts) if parts else torch.zeros(0, 0, dtype=torch.long)
        return self.listing(rows, forbidden)

    @torch.inference_mode()
    def listing(self, rows: Tensor, forbidden: Pairs | None = None) -> Shortlist:
        """The shortlist of rows (B, K) found elsewhere: with what stands for all others."""
        sample = self._sampled()
        weights = self._weights(rows, sample, NOTHING if forbidden is None else forbidden)
        return Shortlist(rows, self._table[sample, : self._width].float(), weights)

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self._table, self._scores))

    @property
    def _scanned(self) -> int:
        """Rows in whole groups; those beyond `size` have bias -inf."""
        return -(-self.size // GROUP) * GROUP

    def _scan(self, query: Tensor, count: int, forbidden: Pairs) -> Tensor:
        """Rows (B, K) of the best scores: the `count` highest lie in the `count` groups with the highest maxima."""
        users, scanned = len(query), self._scanned
        if self._scores.numel() < scanned * users:  # kept between calls: fresh memory costs as much as the scan
            self._scores = torch.empty(scanned * users, dtype=self._dtype)
        scores = self._scores[: scanned * users].view(scanned, users)
        best = torch.empty(scanned // GROUP, users, dtype=self._dtype)
        across = query.T.contiguous()  # (width + 1, B)
        for begin in range(0, scanned, CHUNK):
            end = min(begin + CHUNK, scanned)
            part = torch.mm(self._table[begin:end], across, out=scores[begin:end])  # (chunk, B)
            torch.amax(part.view(-1, GROUP, users), 1, out=best[begin // GROUP : end // GROUP])
        grouped = scores.view(-1, GROUP, users)
        of_user, struck = forbidden
        scores[struck, of_user] = -torch.inf
        best[struck // GROUP, of_user] = grouped[struck // GROUP, :, of_user].amax(1)
        groups = best.T.contiguous().topk(min(count, len(best)), dim=1, sorted=False).indices  # (B, G)
        everyone = torch.arange(users)[:, None]
        inside = grouped[groups, :, everyone].flatten(1)  # (B, G * GROUP)
        values, at = inside.float().topk(min(count, inside.shape[1]), dim=1, sorted=False)
        rows = groups.gather(1, at // GROUP) * GROUP + at % GROUP
        return torch.where(values == -torch.inf, -1, rows)

    def _sampled(self) -> Tensor:
        """Up to SAMPLE rows (M,), ascending, of items that are not removed, the same until something is updated."""
        if self._sample is None:
            alive = torch.nonzero(self._table[: self.size, self._width] > -torch.inf)[:, 0]
            spread = alive * GOLDEN % 2**32
            kept = spread.topk(min(SAMPLE, len(alive)), largest=False).indices
            self._sample, self._alive = alive[kept].sort().values, len(alive)
        return self._sample

    def _weights(self, rows: Tensor, sample: Tensor, forbidden: Pairs) -> Tensor:
        """See `Shortlist.weights`."""
        if not len(sample) or not rows.shape[1]:
            return torch.full((len(rows), len(sample)), -torch.inf)
        ordered = rows.sort(dim=1).values
        wanted = sample.expand(len(rows), -1).contiguous()
        place = torch.searchsorted(ordered, wanted).clamp(max=rows.shape[1] - 1)
        outside = ordered.gather(1, place) != wanted  # (B, M)
        left = self._alive - (rows >= 0).sum(1, keepdim=True)
        stands_for = torch.log(left / outside.sum(1, keepdim=True).clamp(min=1))
        place = torch.searchsorted(sample, forbidden[1]).clamp(max=len(sample) - 1)
        met = sample[place] == forbidden[1]
        outside[forbidden[0][met], place[met]] = False
        bias = self._table[sample, self._width].float()
        return torch.where(outside, bias + stands_for, -torch.inf)

    def _reserve(self, size: int) -> None:
        self.size = max(self.size, size)
        if self._scanned <= len(self._table):
            return
        capacity = -(-max(self.size, 2 * len(self._table)) // GROUP) * GROUP
        table = torch.zeros(capacity, self._width + 1, dtype=self._dtype)
        table[:, self._width] = -torch.inf
        table[: len(self._table)] = self._table
        self._table = table
