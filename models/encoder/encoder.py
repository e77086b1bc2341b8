"""Text to unit vectors with a small sentence encoder, offline.

Owns the `TextEncoder` contract, tokenization, pooling and batching. Must not know what the texts are about, nor
where weights come from; `models.encoder.backends` chooses who computes.
"""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Tokens = Mapping[str, NDArray[np.int64]]
"""The tokenizer's output: `input_ids`, `attention_mask` and the like, (B, T) each."""


class TextEncoder(Protocol):
    """Maps texts into one space where near means alike."""

    @property
    def dims(self) -> int:
        """Width of a vector."""
        ...

    @property
    def revision(self) -> str:
        """Name and digest of the weights: vectors of two revisions must never meet.

        The same on every back end, since `load_encoder` uses none whose vectors differ: a fleet may mix them.
        """
        ...

    def encode(self, texts: Sequence[str]) -> Vectors:
        """L2-normalized vectors (N, dims), row by row; an empty text gets a vector like any other. Thread-safe."""
        ...


class EncoderUnavailable(RuntimeError):
    """The requested back end is not installed here, or cannot compute; the message says what to do."""


class SentenceEncoder(ABC):
    """Tokenization, batching and mean pooling around `_states`, which a back end computes."""

    def __init__(self, folder: Path, *, batch_size: int, max_tokens: int) -> None:
        from transformers import AutoConfig, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        if not (folder / "config.json").exists():
            raise FileNotFoundError(f"no text encoder in {folder}: run `freshet models prepare`")
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._batch_size = batch_size
        self._max_tokens = max_tokens
        self._lock = threading.Lock()  # the tokenizer keeps its truncation setting between calls
        self.dims = int(AutoConfig.from_pretrained(folder, local_files_only=True).hidden_size)
        self.revision = revision(folder)

    @abstractmethod
    def _states(self, tokens: Tokens) -> Vectors:
        """The last hidden states (B, T, dims) of `tokens` (B, T). One call at a time."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`. Each distinct text is computed once; batches hold texts of like length."""
        distinct = list(dict.fromkeys(texts))
        row = {text: number for number, text in enumerate(distinct)}
        order = sorted(range(len(distinct)), key=lambda number: len(distinct[number]))
        vectors = np.zeros((len(distinct), self.dims), dtype=np.float32)
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            vectors[rows] = self._batch([distinct[number] for number in rows])
        return vectors[[row[text] for text in texts]]

    def _batch(self, texts: list[str]) -> Vectors:
        with self._lock:
            tokens = self._tokenizer(
                texts, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="np"
            )
            states = self._states(tokens)  # (B, T, dims)
        mask = tokens["attention_mask"][..., None].astype(np.float32)  # (B, T, 1)
        pooled = (states * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)  # (B, dims)
        unit: Vectors = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
        return unit.astype(np.float32)


def revision(folder: Path) -> str:
    """Name and digest of the weights in `folder`."""
    with (folder / "model.safetensors").open("rb") as stream:
        return f"{folder.name}@{hashlib.file_digest(stream, 'sha256').hexdigest()[:12]}"
