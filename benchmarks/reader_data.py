"""What the reader benchmark reads: items and users, the same for every contender, and random requests for them.

Owns ids, vectors and requests. Imports nothing but numpy, as Feast's interpreter reads it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BEHAVIORS = 16
"""Inferred behaviors of each user."""
SCRUB_BYTES = 64 << 20
"""More than any cache of the CPU: what a ranker's model does to the caches between two requests."""


@dataclass(frozen=True)
class Data:
    """Unit vectors, float16; users have two of them each."""

    items: NDArray[np.float16]  # (items, dims)
    users: NDArray[np.float16]  # (users, 2, dims)

    @classmethod
    def make(cls, items: int, users: int, dims: int) -> Data:
        """Random ones."""
        return cls(_unit(np.random.default_rng(0), items, dims), _unit(np.random.default_rng(1), users, 2, dims))

    def save(self, folder: Path) -> None:
        """Write them for other processes."""
        np.save(folder / "items.npy", self.items)
        np.save(folder / "users.npy", self.users)

    @classmethod
    def load(cls, folder: Path) -> Data:
        """What `save` wrote; mapped, so that nine processes share it."""
        return cls(np.load(folder / "items.npy", mmap_mode="r"), np.load(folder / "users.npy", mmap_mode="r"))


def _unit(rng: np.random.Generator, *shape: int) -> NDArray[np.float16]:
    vectors = rng.standard_normal(shape, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors.astype(np.float16)


def item_id(row: int) -> str:
    """The id of one item."""
    return f"item{row:08d}"


def user_id(row: int) -> str:
    """The id of one user."""
    return f"user{row:08d}"


class Requests:
    """Draws requests: a user, and candidates anew each time."""

    def __init__(self, items: int, users: int, candidates: int) -> None:
        self.item_ids = [item_id(row) for row in range(items)]
        self.user_ids = [user_id(row) for row in range(users)]
        self.candidates = candidates

    def draw(self, count: int, seed: int, popular: float = 0.0) -> list[tuple[str, list[str]]]:
        """`count` requests of distinct candidates, which fall off as rank to the power `popular`; 0: all alike."""
        rng = np.random.default_rng(seed)
        weight = np.arange(1, len(self.item_ids) + 1) ** -popular
        reach = np.cumsum(weight / weight.sum())
        return [(self.user_ids[rng.integers(len(self.user_ids))], self._candidates(rng, reach)) for _ in range(count)]

    def _candidates(self, rng: np.random.Generator, reach: NDArray[np.float64]) -> list[str]:
        chosen: dict[int, None] = {}
        while len(chosen) < self.candidates:
            drawn = np.searchsorted(reach[:-1], rng.random(2 * self.candidates), side="right")
            chosen |= dict.fromkeys(drawn.tolist())
        return [self.item_ids[row] for row in list(chosen)[: self.candidates]]


class Scrubber:
    """Empties the caches of the CPU of everything that a reader would find warm."""

    def __init__(self) -> None:
        self._room = np.zeros(SCRUB_BYTES, np.uint8)

    def __call__(self) -> None:
        self._room += 1
