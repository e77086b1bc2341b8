"""Ways to find the best items for a state that were measured and not taken: cells, semantic IDs, faiss.

Owns their building and searching, for `benchmarks.catalogue_scale` alone. All see an item as one vector, embedding and
bias, and answer `find(queries, count)` with item rows.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

SAMPLE_PER_CENTROID = 64
ROUNDS = 6
CHUNK = 4_096


class Finder(Protocol):
    """What is compared."""

    name: str

    def find(self, queries: Tensor, count: int) -> Tensor:
        """Rows (B, K <= count), -1 where fewer, of the items best for queries (B, width)."""
        ...

    def change(self, rows: Tensor, vectors: Tensor) -> None:
        """Take new vectors (M, width + 1) for rows (M,)."""
        ...

    @property
    def bytes(self) -> int:
        """Memory held beside the item table."""
        ...


def nearest(vectors: Tensor, centroids: Tensor) -> Tensor:
    """The nearest centroid (N,) of vectors (N, width)."""
    half = (centroids * centroids).sum(1) / 2
    chunks = vectors.split(CHUNK)
    return torch.cat([torch.addmm(-half, part, centroids.T).argmax(1) for part in chunks])


def k_means(vectors: Tensor, count: int) -> Tensor:
    """Centroids (count, width) by Lloyd's rounds on a sample."""
    draw = torch.Generator().manual_seed(0)
    sample = vectors[torch.randperm(len(vectors), generator=draw)[: count * SAMPLE_PER_CENTROID]]
    centroids = sample[torch.arange(count) % len(sample)].clone()
    for _ in range(ROUNDS):
        cell = nearest(sample, centroids)
        sizes = torch.bincount(cell, minlength=count)[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, cell, sample)
        centroids = torch.where(sizes > 0, sums / sizes.clamp(min=1), centroids)
    return centroids


def with_one(states: Tensor) -> Tensor:
    """Queries (B, width + 1): the last column meets the bias."""
    return torch.cat([states, torch.ones_like(states[:, :1])], dim=1)


class Cells:
    """Inverted file: 2 sqrt(N) k-means cells, the items of the best 1/32 of them are scored exactly."""

    name = "cells"

    def __init__(self, vectors: Tensor) -> None:
        self._vectors = vectors
        self.cells = 2 ** round(np.log2(2 * len(vectors) ** 0.5))
        self.probes = max(16, self.cells // 32)
        self._centroids = k_means(vectors, self.cells)
        self._cell = nearest(vectors, self._centroids)
        self._lay()

    def wider(self) -> Cells:
        """The same cells, four times as many probed."""
        other = copy.copy(self)
        other.name, other.probes = "cells, 1/8", min(self.cells, 4 * self.probes)
        return other

    def _lay(self) -> None:
        self._order = self._cell.argsort(stable=True)
        self._laid = self._vectors[self._order]  # the items of a cell stand together: read once for all who probe it
        self._sizes = torch.bincount(self._cell, minlength=self.cells)
        self._begins = self._sizes.cumsum(0) - self._sizes

    def find(self, queries: Tensor, count: int) -> Tensor:
        """See `Finder.find`."""
        queries = with_one(queries)
        users = len(queries)
        probed = (queries @ self._centroids.T).topk(self.probes, 1).indices  # (B, P)
        sizes = self._sizes[probed]
        ends = sizes.cumsum(1)
        by_cell = probed.flatten().argsort(stable=True)
        user = torch.arange(users).repeat_interleave(self.probes)[by_cell]
        place = (ends - sizes).flatten()[by_cell].tolist()
        cells, often = torch.unique_consecutive(probed.flatten()[by_cell], return_counts=True)
        scores = torch.full((users, int(ends[:, -1].max())), -torch.inf)
        into, who, at = scores.numpy(), user.tolist(), 0
        for cell, members in zip(cells.tolist(), often.tolist(), strict=True):
            begin = int(self._begins[cell])
            part = self._laid[begin : begin + int(self._sizes[cell])]
            found = torch.mm(queries[user[at : at + members]], part.T).numpy()
            for row in found:
                into[who[at], place[at] : place[at] + len(row)] = row
                at += 1
        values, best = scores.topk(min(count, scores.shape[1]), 1, sorted=False)
        which = torch.searchsorted(ends, best, right=True).clamp(max=self.probes - 1)
        inside = best - (ends - sizes).gather(1, which)
        rows = self._order[(self._begins[probed].gather(1, which) + inside).clamp(max=len(self._order) - 1)]
        return torch.where(values == -torch.inf, -1, rows)

    def change(self, rows: Tensor, vectors: Tensor) -> None:
        """See `Finder.change`: the simplest way, cells laid anew."""
        self._vectors[rows] = vectors
        self._cell[rows] = nearest(vectors, self._centroids)
        self._lay()

    @property
    def bytes(self) -> int:
        """See `Finder.bytes`."""
        return sum(t.numel() * t.element_size() for t in (self._centroids, self._cell, self._order, self._laid))


class SemanticIds:
    """4 x 256 semantic IDs: residual k-means, a beam down the trie of codes that exist, exact scores of its leaves.

    Items that would share all four codes are told apart at tokenisation: the later one takes the next nearest last
    code that is free under its first three. Where none of 256 is free, items share a leaf and all are scored.
    """

    name = "semantic ids"
    levels, codes = 4, 256

    def __init__(self, vectors: Tensor, beam: int = 1_024) -> None:
        self._vectors = vectors
        self._beam = beam
        self._codebooks: list[Tensor] = []
        self._tokens = torch.empty(len(vectors), self.levels, dtype=torch.long)
        residual = vectors.clone()
        for level in range(self.levels):
            centroids = k_means(residual, self.codes)
            self._codebooks.append(centroids)
            self._tokens[:, level] = nearest(residual, centroids)
            if level + 1 < self.levels:
                residual -= centroids[self._tokens[:, level]]
        self.collisions = self._tell_apart(residual)
        self._grow()

    def _tell_apart(self, residual: Tensor) -> int:
        """Give colliding items free last codes; returns how many items had to move."""
        stem = self._tokens[:, :3] @ torch.tensor([self.codes**2, self.codes, 1])
        whole = stem * self.codes + self._tokens[:, 3]
        order = whole.argsort(stable=True)
        repeated = order[1:][whole[order[1:]] == whole[order[:-1]]]
        taken: dict[int, set[int]] = {stem_of: set() for stem_of in stem[repeated].tolist()}
        crowded = torch.isin(stem, torch.tensor(sorted(taken), dtype=torch.long))
        for stem_of, code in zip(stem[crowded].tolist(), self._tokens[crowded, 3].tolist(), strict=True):
            taken[stem_of].add(code)
        distances = torch.cdist(residual[repeated], self._codebooks[3]).argsort(1)
        for row, stem_of, near in zip(repeated.tolist(), stem[repeated].tolist(), distances.tolist(), strict=True):
            free = next((code for code in near if code not in taken[stem_of]), None)
            if free is not None:
                self._tokens[row, 3] = free
                taken[stem_of].add(free)
        return len(repeated)

    def _grow(self) -> None:
        """Sorted prefixes of each level; the children of a prefix stand together in the next."""
        keys = self._tokens @ torch.tensor([self.codes**3, self.codes**2, self.codes, 1])
        keys, self._order = keys.sort(stable=True)
        self._code_of, self._first, self._children = [], [], []
        finer: Tensor = keys
        for level in reversed(range(self.levels)):
            prefixes, often = torch.unique_consecutive(
                keys // self.codes ** (self.levels - 1 - level), return_counts=True
            )
            if level == self.levels - 1:
                children = often
            else:
                children = torch.unique_consecutive(finer // self.codes, return_counts=True)[1]
            self._code_of.insert(0, prefixes % self.codes)
            self._children.insert(0, children)
            self._first.insert(0, children.cumsum(0) - children)
            finer = prefixes

    def find(self, queries: Tensor, count: int) -> Tensor:
        """See `Finder.find`."""
        queries = with_one(queries)
        scores = [queries @ book.T for book in self._codebooks]  # (B, 256) each
        nodes = torch.arange(len(self._code_of[0])).expand(len(queries), -1)
        total = scores[0][:, self._code_of[0]]
        for level in range(self.levels):
            if total.shape[1] > self._beam:
                total, kept = total.topk(self._beam, 1, sorted=False)
                nodes = nodes.gather(1, kept)
            children = self._children[level][nodes] * (total > -torch.inf)  # (B, W)
            fan = torch.arange(int(children.max()))
            there = (fan < children[..., None]).flatten(1)
            below = ((self._first[level][nodes])[..., None] + fan).flatten(1)  # (B, W * fan)
            if level + 1 < self.levels:
                below = torch.where(there, below, 0)
                step = scores[level + 1].gather(1, self._code_of[level + 1][below])
                total = (total[..., None].expand(-1, -1, len(fan)).flatten(1) + step).masked_fill_(~there, -torch.inf)
            nodes = below
        rows = torch.where(there, self._order[torch.where(there, nodes, 0)], 0)
        exact = torch.bmm(self._vectors[rows], queries[..., None])[..., 0].masked_fill(~there, -torch.inf)
        values, best = exact.topk(min(count, exact.shape[1]), 1, sorted=False)
        return torch.where(values == -torch.inf, -1, rows.gather(1, best))

    def change(self, rows: Tensor, vectors: Tensor) -> None:
        """See `Finder.change`: codes by the old codebooks, the trie grown anew."""
        self._vectors[rows] = vectors
        residual = vectors.clone()
        for level, centroids in enumerate(self._codebooks):
            self._tokens[rows, level] = nearest(residual, centroids)
            residual -= centroids[self._tokens[rows, level]]
        self._grow()

    @property
    def bytes(self) -> int:
        """See `Finder.bytes`."""
        held = (*self._codebooks, self._tokens, self._order, *self._code_of, *self._first, *self._children)
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


class Faiss:
    """`IndexIVFFlat` with as many cells and probes as `Cells`; needs faiss-cpu."""

    name = "faiss ivf"

    def __init__(self, vectors: Tensor) -> None:
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        cells = 2 ** round(np.log2(2 * len(vectors) ** 0.5))
        self._bytes = vectors.numel() * vectors.element_size()
        self._probes = max(16, cells // 32)
        self._quantizer = faiss.IndexFlatL2(vectors.shape[1])  # assigned by distance, probed by product: as in Cells
        self._index: Any = faiss.IndexIVFFlat(self._quantizer, vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
        self._index.cp.spherical = False  # the default for products; here it halves the recall that is missing
        self._index.cp.niter, self._index.cp.max_points_per_centroid = ROUNDS, SAMPLE_PER_CENTROID
        self._index.set_direct_map_type(faiss.DirectMap.Hashtable)
        self._index.train(vectors.numpy())
        self._index.add_with_ids(vectors.numpy(), np.arange(len(vectors)))
        self._centroids = torch.from_numpy(self._quantizer.reconstruct_n(0, cells))

    def wider(self) -> Faiss:
        """See `Cells.wider`."""
        other = copy.copy(self)
        other.name, other._probes = "faiss ivf, 1/8", min(len(self._centroids), 4 * self._probes)
        return other

    def find(self, queries: Tensor, count: int) -> Tensor:
        """See `Finder.find`."""
        queries = with_one(queries)
        self._index.nprobe = self._probes
        scores, probed = (queries @ self._centroids.T).topk(self._probes, 1)
        return torch.from_numpy(
            self._index.search_preassigned(queries.numpy(), count, probed.numpy(), scores.numpy())[1]
        )

    def change(self, rows: Tensor, vectors: Tensor) -> None:
        """See `Finder.change`."""
        self._index.remove_ids(rows.numpy())
        self._index.add_with_ids(vectors.numpy(), rows.numpy())

    @property
    def bytes(self) -> int:
        """See `Finder.bytes`."""
        return self._bytes + 8 * int(self._index.ntotal)
