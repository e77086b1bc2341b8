"""Which back end computes the text encoder: the fastest one here whose vectors agree with torch in float32.

Owns the table of back ends and the check of their vectors. Must not compute itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType

import numpy as np

from models.encoder.config import EncoderSettings
from models.encoder.encoder import EncoderUnavailable, TextEncoder
from models.encoder.torch_encoder import MiniLmEncoder
from models.encoder.weights import encoder_dir
from schemas.setting import SettingError

AUTO, TORCH = "auto", "torch"
BACKENDS = MappingProxyType({"openvino": "models.encoder.openvino_encoder", TORCH: "models.encoder.torch_encoder"})
"""Encoder back ends by the name `FRESHET_ENCODER__BACKEND` takes (or "auto"), the fastest first.

A new one is one file and one line here. Its module has `pays() -> bool`, whether "auto" should try it on this machine,
and `load(folder, cache, *, batch_size, max_tokens) -> TextEncoder`. Imported on use.
"""
LEAST_COSINE = 0.999
"""A back end whose vectors are further from torch in float32 is not used; bfloat16 gives 0.9999, int8 0.92."""
PROBES = (
    "green tea bags",
    "SHMP&COND 2IN1 KIDS 12 OZ",
    "不锈钢水壶 1.7升 家用",
    "A cordless drill with two batteries, a charger and a case, for people who repair things at home. " * 3,
)
"""Texts on which back ends are compared: short, abbreviated, of another script, and as long as texts get."""

_log = logging.getLogger(__name__)


def prepared_encoder(settings: EncoderSettings, home: Path) -> TextEncoder:
    """The encoder that settings name, by `load_encoder`; raises `SettingError` for an unknown back end."""
    if settings.backend not in (AUTO, *BACKENDS):
        raise SettingError("encoder.backend", settings.backend, f"one of {', '.join((AUTO, *BACKENDS))}")
    folder = Path(settings.folder) if settings.folder else encoder_dir(home)
    return load_encoder(folder, settings.backend, cache=home / "openvino")


def load_encoder(
    folder: Path, backend: str = AUTO, *, cache: Path | None = None, batch_size: int = 32, max_tokens: int = 128
) -> TextEncoder:
    """The fastest encoder of `folder` whose vectors agree with torch in float32.

    `auto`: CUDA where torch sees it, else OpenVINO where it is installed and the CPU computes in bfloat16, else torch.
    `cache` keeps OpenVINO's form of the model. Raises `EncoderUnavailable` where a requested back end is not installed,
    `ValueError` for an unknown one, `FileNotFoundError` where there are no weights.
    """
    if backend not in (AUTO, *BACKENDS):
        raise ValueError(f"no encoder back end {backend!r}, there is {', '.join((AUTO, *BACKENDS))}")
    exact = MiniLmEncoder(folder, batch_size=batch_size, max_tokens=max_tokens, exact=True)
    reference = exact.encode(PROBES)
    for name, module in _candidates(backend):
        try:
            encoder: TextEncoder = module.load(folder, cache, batch_size=batch_size, max_tokens=max_tokens)
            least = float(np.sum(encoder.encode(PROBES) * reference, axis=1).min())
        except EncoderUnavailable:
            raise
        except (RuntimeError, OSError) as error:  # what torch and OpenVINO raise where a device cannot compute
            _log.warning("the text encoder does not run on %s (%s)", name, error)
            continue
        if least >= LEAST_COSINE:  # false for NaN too
            _log.info("the text encoder runs on %s, cosine to float32 %.5f", name, least)
            return encoder
        # Also where it was requested by name: wrong vectors would end in Redis, slow ones only cost time.
        _log.warning("the text encoder on %s is wrong: cosine to float32 %.4f, wanted %s", name, least, LEAST_COSINE)
    return exact


def _candidates(backend: str) -> Iterator[tuple[str, ModuleType]]:
    """The back ends to try, in order; torch comes last whatever was requested."""
    for name, path in BACKENDS.items():
        if name not in (backend, TORCH) and backend != AUTO:
            continue
        module = import_module(path)
        # Torch too must pay: where it has nothing faster than float32 it would be the exact one, loaded twice.
        if (name == backend and name != TORCH) or module.pays():
            yield name, module
