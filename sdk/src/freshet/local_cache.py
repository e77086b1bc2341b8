"""Item vectors kept in the ranker's own memory: no server, no wire and no decoding for what was read lately.

Owns one block of rows, all of one version, and how old a row may be. Must not read from Redis: `_protocol.py` asks for
the rows that are missing here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from freshet.blob import Rows


class Held(NamedTuple):
    """A copy of what the cache holds of N ids; the rows in `missing` hold nothing yet."""

    vectors: NDArray[np.float32]  # (N, dims)
    present: NDArray[np.bool_]  # (N,)
    event_time: NDArray[np.int64]  # (N,)
    tier: NDArray[np.uint8]  # (N,)
    missing: NDArray[np.intp]  # indices of the ids, ascending


class LocalCache:
    """Up to `capacity` items, each returned for at most `max_age_s` seconds after it was read; share one per process.

    A result is at most `max_age_s` behind the server: a changed, deleted or erased item is seen that much later. Items
    that do not exist are remembered as well. An activation or a rollback is still seen at once, as every call reads the
    user and the pointer to the active version: a cache holds one version, and drops it when the reader leaves it.

    A full cache replaces its oldest row. A row takes `4 x dims` bytes and about 200 more. Thread-safe.
    """

    def __init__(
        self, capacity: int = 65_536, max_age_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if capacity < 1 or not max_age_s > 0:
            raise ValueError(f"capacity is {capacity} and max_age_s {max_age_s:g}, wanted at least 1 and more than 0")
        self.capacity: int = capacity
        self.max_age_s: float = max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._next = 0
        self._forget("", 0)
        self.hits: int = 0
        self.misses: int = 0

    def __repr__(self) -> str:
        return f"LocalCache(capacity={self.capacity}, max_age_s={self.max_age_s:g}, version={self._version!r})"

    def __len__(self) -> int:
        return len(self._slots)

    def look(self, version: str, ids: Sequence[str], out: NDArray[np.float32] | None = None) -> Held | None:
        """The rows of `version` that are fresh enough, or None where there are none; `out` takes the vectors."""
        with self._lock:
            if version != self._version or not self._slots:
                return None
            n, dims = len(ids), self._vectors.shape[1]
            slots = np.fromiter(map(self._slots.get, ids, repeat(-1)), np.intp, n)
            fresh = self._read_at[slots] > self._clock() - self.max_age_s
            fresh &= slots >= 0
            missing = np.flatnonzero(~fresh)
            self.hits += n - len(missing)
            self.misses += len(missing)
            if len(missing) == n:
                return None
            vectors = np.empty((n, dims), np.float32) if out is None else out[:n]
            np.take(self._vectors, slots, axis=0, out=vectors, mode="wrap")  # missing rows take any row, to be replaced
            return Held(vectors, self._present[slots], self._event_time[slots], self._tier[slots], missing)

    def keep(self, version: str, ids: Sequence[str], rows: Rows, answered: NDArray[np.bool_], read_at: float) -> None:
        """Store the `answered` rows of `version`; `read_at` is the time of the request on the cache's clock."""
        rows_answered = np.flatnonzero(answered)
        if not len(rows_answered):
            return
        with self._lock:
            if version != self._version or rows.vectors.shape[1] != self._vectors.shape[1]:
                self._forget(version, rows.vectors.shape[1])
            slots = self._assign([ids[row] for row in rows_answered.tolist()])
            self._vectors[slots] = rows.vectors[rows_answered]
            self._present[slots] = rows.present[rows_answered]
            self._event_time[slots] = rows.event_time[rows_answered]
            self._tier[slots] = rows.tier[rows_answered]
            self._read_at[slots] = read_at

    def now(self) -> float:
        """The cache's clock, for `keep`."""
        return self._clock()

    def _assign(self, ids: Sequence[str]) -> list[int]:
        """A slot for each id: its own, or the one that was assigned longest ago."""
        slots = []
        for item_id in ids:
            slot = self._slots.get(item_id)
            if slot is None:
                slot, self._next = self._next, (self._next + 1) % self.capacity
                if (evicted := self._ids[slot]) is not None:
                    del self._slots[evicted]
                self._ids[slot], self._slots[item_id] = item_id, slot
            slots.append(slot)
        return slots

    def _forget(self, version: str, dims: int) -> None:
        self._version = version
        self._slots: dict[str, int] = {}
        self._ids: list[str | None] = [None] * self.capacity
        self._next = 0
        self._vectors = np.zeros((self.capacity if dims else 1, dims), np.float32)
        self._present = np.zeros(self.capacity, np.bool_)
        self._event_time = np.zeros(self.capacity, np.int64)
        self._tier = np.zeros(self.capacity, np.uint8)
        self._read_at = np.full(self.capacity, -np.inf)
