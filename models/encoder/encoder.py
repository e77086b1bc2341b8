"""Text to unit vectors with a small sentence encoder, offline, on the fastest back end that agrees with torch.

Owns tokenisation, pooling, batching and the choice of back end. Must not know what the texts are about, nor where
weights come from.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.encoder.config import EncoderSettings
from schemas.setting import SettingError

Vectors = NDArray[np.float32]
Tokens = Mapping[str, NDArray[np.int64]]
"""What the tokenizer gives: `input_ids`, `attention_mask` and the like, (B, T) each."""

BACKENDS = ("auto", "torch", "openvino")
"""What `FRESHET_ENCODER__BACKEND` takes."""
LEAST_COSINE = 0.999
"""A back end whose vectors are further from torch in float32 is not used; bfloat16 gives 0.9999, int8 0.92."""
PROBES = (
    "green tea bags",
    "SHMP&COND 2IN1 KIDS 12 OZ",
    "不锈钢水壶 1.7升 家用",
    "A cordless drill with two batteries, a charger and a case, for people who repair things at home. " * 3,
)
"""What back ends are compared on: short, abbreviated, of another script, and as long as texts get."""

_log = logging.getLogger(__name__)


class TextEncoder(Protocol):
    """Maps texts into one space where near means alike."""

    @property
    def dims(self) -> int:
        """Width of a vector."""
        ...

    @property
    def revision(self) -> str:
        """Name and digest of the weights: vectors of two revisions must never meet.

        The same on every back end, since `load_encoder` uses none whose vectors differ: workers may be of mixed kinds.
        """
        ...

    def encode(self, texts: Sequence[str]) -> Vectors:
        """L2-normalized vectors (N, dims), row by row; an empty text gets a vector like any other. Thread-safe."""
        ...


class EncoderUnavailable(RuntimeError):
    """The back end asked for is not installed here, or cannot compute; the message says what to do."""


class SentenceEncoder(ABC):
    """Tokenisation, batching and mean pooling around `_states`, which a back end computes."""

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


class MiniLmEncoder(SentenceEncoder):
    """A BERT-like sentence encoder with mean pooling (all-MiniLM-L6-v2: 384 dims) on torch.

    On CUDA where torch sees it. bfloat16 where the device computes in it (on a CPU 2.7 times as fast as float32, cosine
    to it 0.99994), else float16 on CUDA and float32 on a CPU. `exact` asks for float32 on the CPU.
    """

    def __init__(self, folder: Path, *, batch_size: int = 32, max_tokens: int = 128, exact: bool = False) -> None:
        import torch
        from transformers import AutoModel

        super().__init__(folder, batch_size=batch_size, max_tokens=max_tokens)
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() and not exact else "cpu"
        dtype = torch.float32 if exact else _fast_dtype(torch, self._device)
        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=dtype, use_safetensors=True)
        self._model = model.eval().to(self._device)

    def _states(self, tokens: Tokens) -> Vectors:
        torch = self._torch
        with torch.inference_mode():
            given = {name: torch.from_numpy(ids).to(self._device) for name, ids in tokens.items()}
            states: Vectors = self._model(**given).last_hidden_state.float().cpu().numpy()
        return states


def prepared_encoder(settings: EncoderSettings, home: Path) -> TextEncoder:
    """The encoder that settings name, by `load_encoder`; raises `SettingError` for an unknown back end."""
    from models.encoder.weights import encoder_dir

    if settings.backend not in BACKENDS:
        raise SettingError("encoder.backend", settings.backend, f"one of {', '.join(BACKENDS)}")
    folder = Path(settings.folder) if settings.folder else encoder_dir(home)
    return load_encoder(folder, settings.backend, cache=home / "openvino")


def load_encoder(
    folder: Path, backend: str = "auto", *, cache: Path | None = None, batch_size: int = 32, max_tokens: int = 128
) -> TextEncoder:
    """The fastest encoder of `folder` whose vectors agree with torch in float32.

    `auto`: CUDA where torch sees it, else OpenVINO where it is installed and the CPU computes in bfloat16, else torch.
    What disagrees is left with a warning, also where it was asked for: wrong vectors are worse than slow ones. `cache`
    keeps OpenVINO's form of the model. Raises `EncoderUnavailable` where a back end asked for is not there,
    `ValueError` for an unknown one, `FileNotFoundError` where no weights are.
    """
    if backend not in BACKENDS:
        raise ValueError(f"no encoder back end {backend!r}, there is {', '.join(BACKENDS)}")
    exact = MiniLmEncoder(folder, batch_size=batch_size, max_tokens=max_tokens, exact=True)
    wanted = exact.encode(PROBES)
    for name, make in _candidates(folder, backend, cache, batch_size, max_tokens):
        try:
            encoder = make()
            least = float(np.sum(encoder.encode(PROBES) * wanted, axis=1).min())
        except EncoderUnavailable:
            raise
        except (RuntimeError, OSError) as error:  # what torch and OpenVINO raise where a device cannot compute
            _log.warning("the text encoder does not run on %s (%s)", name, error)
            continue
        if least >= LEAST_COSINE:  # false for NaN too
            _log.info("the text encoder runs on %s, cosine to float32 %.5f", name, least)
            return encoder
        _log.warning("the text encoder on %s is wrong: cosine to float32 %.4f, wanted %s", name, least, LEAST_COSINE)
    return exact


def _candidates(
    folder: Path, backend: str, cache: Path | None, batch_size: int, max_tokens: int
) -> Iterator[tuple[str, Callable[[], TextEncoder]]]:
    from models.encoder import openvino as encoder_openvino

    if backend == "openvino" or (
        backend == "auto" and not _cuda() and fast_bfloat16() and encoder_openvino.installed()
    ):
        yield (
            "OpenVINO",
            lambda: encoder_openvino.OpenVinoEncoder(folder, cache, batch_size=batch_size, max_tokens=max_tokens),
        )
    if _cuda() or fast_bfloat16():  # else torch's fast form is the exact one
        yield "torch", lambda: MiniLmEncoder(folder, batch_size=batch_size, max_tokens=max_tokens)


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _fast_dtype(torch: Any, device: str) -> Any:
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if fast_bfloat16() else torch.float32


def fast_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16 itself: elsewhere it is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def revision(folder: Path) -> str:
    """Name and digest of the weights in `folder`."""
    import hashlib

    with (folder / "model.safetensors").open("rb") as stream:
        return f"{folder.name}@{hashlib.file_digest(stream, 'sha256').hexdigest()[:12]}"
