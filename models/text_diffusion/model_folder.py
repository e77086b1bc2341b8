"""A folder of weights into a stock Hugging Face class, by renaming tensors; never code out of the folder.

Owns the reading of safetensors (sharded or not), device and dtype. Must not download anything, nor know a family.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from models.device import fast_bfloat16


class ModelFolderError(ValueError):
    """The folder holds no model that runs here; the message says why."""


def device_and_dtype() -> tuple[torch.device, torch.dtype]:
    """CUDA in bfloat16 where there is one, else the CPU in whatever it computes fast."""
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.bfloat16
    return torch.device("cpu"), torch.bfloat16 if fast_bfloat16() else torch.float32


def build(
    make: Callable[[], Any], weights: Mapping[str, Tensor], rotary: Callable[[], torch.nn.Module], device: torch.device
) -> Any:
    """The causal model that `make` gives, with `weights` as its own; no second copy of them is ever held.

    `rotary` makes its position embedding anew, whose buffers are in no file. Raises `ModelFolderError` where weights
    are missing, left over or of another shape.
    """
    with torch.device("meta"):
        model = make()
    tied = dict(weights)
    if model.config.tie_word_embeddings:
        tied["lm_head.weight"] = tied["model.embed_tokens.weight"]
    try:
        model.load_state_dict(tied, strict=True, assign=True)
    except (RuntimeError, KeyError) as error:
        raise ModelFolderError(f"the weights do not fit the configuration: {error!s:.500}") from error
    model.model.rotary_emb = rotary().to(device)
    return model


def read_weights(
    folder: Path, rename: Callable[[str], str], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Every tensor of the folder's safetensors by its new name, on `device` in `dtype`; raises `ModelFolderError`."""
    tensors = (pair for file in _files(folder) for pair in _tensors(file))
    return {rename(name): tensor.to(device=device, dtype=dtype) for name, tensor in tensors}


def _files(folder: Path) -> list[Path]:
    """The files of weights: those an index names, else the one there is."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelFolderError(f"{index} is no index of weights") from error
    else:
        names = ["model.safetensors"]
    files = [folder / Path(name).name for name in names]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise ModelFolderError(f"{folder} lacks {', '.join(missing)}")
    return files


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - no mapping
            yield name, tensors.get_tensor(name)
