"""The live catalogue: every item a reasoner may name, with its aligned vector.

Owns item ids, their rows and their vectors in memory. Must not know where vectors come from (Redis, Kafka, a
checkpoint) nor what a reasoner makes of them. One writer and any number of readers may use it at once: rows never
move, and every read copies under the lock, so that no reader sees half of a vector.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Changes:
    """Rows written since a revision: `rows` (M,), `vectors` (M, dims), `alive` (M,); `size` rows exist in all."""

    revision: int
    size: int
    rows: Rows
    vectors: Vectors
    alive: NDArray[np.bool_]


class Catalogue:
    """Items by row. A removed item keeps its row and is no longer alive, so that rows stay valid for ever."""

    def __init__(self, item_ids: Sequence[str], vectors: Vectors) -> None:
        vectors = np.asarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(item_ids):
            raise ValueError(f"{len(item_ids)} item ids need as many vectors, got shape {vectors.shape}")
        self._lock = threading.Lock()
        self._ids: list[str] = []
        self._index: dict[str, int] = {}
        capacity = max(1024, len(item_ids))
        self._vectors: Vectors = np.zeros((capacity, vectors.shape[1]), dtype=np.float32)
        self._revisions: Rows = np.zeros(capacity, dtype=np.int64)
        self._alive: NDArray[np.bool_] = np.zeros(capacity, dtype=np.bool_)
        self._revision = 0
        self.upsert(item_ids, vectors)

    @classmethod
    def empty(cls, dims: int) -> Catalogue:
        """A catalogue without items, to be filled by `upsert`."""
        return cls([], np.zeros((0, dims), dtype=np.float32))

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def dims(self) -> int:
        """Width of every vector."""
        return int(self._vectors.shape[1])

    @property
    def revision(self) -> int:
        """Grows by one with every write."""
        return self._revision

    @property
    def index(self) -> Mapping[str, int]:
        """Row of each item id, removed items included."""
        return MappingProxyType(self._index)

    @property
    def item_ids(self) -> Sequence[str]:
        """Item ids in row order; rows are only ever appended."""
        return self._ids

    def upsert(self, item_ids: Sequence[str], vectors: Vectors) -> None:
        """Add items or replace their vectors; the last one wins where an id comes twice."""
        vectors = np.asarray(vectors, dtype=np.float32)
        if vectors.shape != (len(item_ids), self.dims):
            raise ValueError(f"wanted vectors of shape {(len(item_ids), self.dims)}, got {vectors.shape}")
        with self._lock:
            last = {item_id: position for position, item_id in enumerate(item_ids)}
            rows = np.fromiter((self._row(item_id) for item_id in last), dtype=np.int64, count=len(last))
            self._reserve(len(self._ids))
            self._revision += 1
            self._vectors[rows] = vectors[np.fromiter(last.values(), dtype=np.int64, count=len(last))]
            self._alive[rows] = True
            self._revisions[rows] = self._revision

    def remove(self, item_ids: Sequence[str]) -> None:
        """Mark items as gone: never inferred, their vectors no longer given. Unknown ids are ignored."""
        with self._lock:
            rows = [self._index[item_id] for item_id in item_ids if item_id in self._index]
            self._revision += 1
            self._alive[rows] = False
            self._revisions[rows] = self._revision

    def rows(self, item_ids: Sequence[str]) -> Rows:
        """Row of each id (N,), -1 where it is unknown or removed."""
        find = self._index.get
        rows = np.fromiter((find(item_id, -1) for item_id in item_ids), dtype=np.int64, count=len(item_ids))
        with self._lock:
            known = (rows >= 0) & self._alive[rows]
        return np.where(known, rows, -1)

    def get(self, item_ids: Sequence[str]) -> tuple[Vectors, NDArray[np.bool_]]:
        """Vectors (N, dims) of ids, zeros where an id is absent, and which are present (N,)."""
        return self.at(self.rows(item_ids))

    def at(self, rows: Rows) -> tuple[Vectors, NDArray[np.bool_]]:
        """Vectors (N, dims) of `rows`, zeros where a row is -1, and which rows are not (N,)."""
        present = rows >= 0
        with self._lock:
            vectors = self._vectors[rows]
        vectors[~present] = 0.0
        return vectors, present

    def changes(self, since: int = 0) -> Changes:
        """What was written after revision `since`; `since=0` gives everything."""
        with self._lock:
            size = len(self._ids)
            rows = np.flatnonzero(self._revisions[:size] > since)
            return Changes(self._revision, size, rows, self._vectors[rows], self._alive[rows])

    def _row(self, item_id: str) -> int:
        row = self._index.get(item_id)
        if row is None:
            row = len(self._ids)
            self._reserve(row + 1)
            self._ids.append(item_id)
            self._index[item_id] = row
        return row

    def _reserve(self, size: int) -> None:
        capacity = len(self._vectors)
        if size <= capacity:
            return
        extra = max(capacity, size - capacity)
        self._vectors = np.concatenate([self._vectors, np.zeros((extra, self.dims), dtype=np.float32)])
        self._revisions = np.concatenate([self._revisions, np.zeros(extra, dtype=np.int64)])
        self._alive = np.concatenate([self._alive, np.zeros(extra, dtype=np.bool_)])
