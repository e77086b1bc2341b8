"""Item vectors kept in the ranker's own memory: no server, no wire and no decoding for what was read lately.

Owns one slab of rows, all of one version, and how old a row may be. Must not ask anybody: `questions.py` asks for what
is missing here.
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
    """What the cache has of N ids, copied out; rows that are `missing` hold nothing yet."""

    vectors: NDArray[np.float32]  # (N, dims)
    present: NDArray[np.bool_]  # (N,)
    event_time: NDArray[np.int64]  # (N,)
    tier: NDArray[np.uint8]  # (N,)
    missing: NDArray[np.intp]  # places among the ids, rising


class LocalCache:
    """Up to `capacity` items, none of which is older than `max_age_s` when it is answered; share one per process.

    Age counts from when the row was read from the server, so an answer is at most `max_age_s` behind it: a changed, a
    deleted or an erased item is seen that much later. Items that do not exist are remembered as well. Activation and
    rollback are seen at once all the same, as the user and the pointer are read in every call: a cache holds one
    version, and forgets it when the reader goes to another.

    Where it is full, the oldest row makes room. A row takes `4 x dims` bytes and about 200 more.
    """

    def __init__(
        self, capacity: int = 65_536, max_age_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if capacity < 1 or not max_age_s > 0:
            raise ValueError(f"capacity is {capacity} and max_age_s {max_age_s:g}, wanted at least 1 and more than 0")
        self.capacity, self.max_age_s = capacity, max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._next = 0
        self._forget("", 0)
        self.hits = self.misses = 0

    def __repr__(self) -> str:
        return f"LocalCache(capacity={self.capacity}, max_age_s={self.max_age_s:g}, version={self._version!r})"

    def __len__(self) -> int:
        return len(self._slots)

    def look(self, version: str, ids: Sequence[str], out: NDArray[np.float32] | None = None) -> Held | None:
        """What is here of `version` and fresh enough, or None where that is nothing; `out` takes the vectors."""
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
            np.take(self._vectors, slots, axis=0, out=vectors, mode="wrap")  # a missing row takes anything, -1 the last
            return Held(vectors, self._present[slots], self._event_time[slots], self._tier[slots], missing)

    def keep(self, version: str, ids: Sequence[str], rows: Rows, answered: NDArray[np.bool_], read_at: float) -> None:
        """Take those rows of `version` that were `answered`; asked for at `read_at` on the cache's clock."""
        places = np.flatnonzero(answered)
        if not len(places):
            return
        with self._lock:
            if version != self._version or rows.vectors.shape[1] != self._vectors.shape[1]:
                self._forget(version, rows.vectors.shape[1])
            slots = self._room([ids[place] for place in places.tolist()])
            self._vectors[slots] = rows.vectors[places]
            self._present[slots] = rows.present[places]
            self._event_time[slots] = rows.event_time[places]
            self._tier[slots] = rows.tier[places]
            self._read_at[slots] = read_at

    def now(self) -> float:
        """The cache's clock, for `keep`."""
        return self._clock()

    def _room(self, ids: Sequence[str]) -> list[int]:
        """A slot for each id: its own, or the one that was filled longest ago."""
        slots = []
        for one in ids:
            slot = self._slots.get(one)
            if slot is None:
                slot, self._next = self._next, (self._next + 1) % self.capacity
                if (gone := self._ids[slot]) is not None:
                    del self._slots[gone]
                self._ids[slot], self._slots[one] = one, slot
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
