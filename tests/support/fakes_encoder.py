"""A text encoder without weights: deterministic, quick, and alike for texts that share words."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from models.encoder.encoder import Vectors


class FakeEncoder:
    """Each word points somewhere; a text is the sum of its words. `before` runs at the start of each call."""

    revision = "fake@1"

    def __init__(self, dims: int = 384, before: Callable[[Sequence[str]], None] | None = None) -> None:
        self.dims = dims
        self.calls: list[list[str]] = []
        self._before = before

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `models.encoder.encoder.TextEncoder.encode`."""
        if self._before is not None:
            self._before(texts)
        self.calls.append(list(texts))
        vectors = np.zeros((len(texts), self.dims), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split() or [""]:
                vectors[row] += np.random.default_rng(zlib.crc32(word.encode())).standard_normal(self.dims)
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit
