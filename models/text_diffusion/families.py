"""Families of text diffusion models by name. Owns the table; each family is a file of its own, imported on use."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from models.text_diffusion.model_folder import ModelFolderError
from models.text_diffusion.prompt import Writer

FAMILIES = {
    "llada": "models.text_diffusion.llada",
    "dream": "models.text_diffusion.dream",
    "diffusion_gemma": "models.text_diffusion.gemma",
}
"""By `model_type` of config.json, in lower case: a module with `load(folder, config, users_at_once) -> Writer`."""


def load_writer(folder: Path, *, users_at_once: int = 16) -> Writer:
    """The writer for the model in `folder`, on CUDA where there is one; raises `ModelFolderError`."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        family = str(config["model_type"]).lower()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(f"{folder} has no readable config.json with a model_type") from error
    if family not in FAMILIES:
        raise ModelFolderError(f"{folder} holds a model of type {family!r}, known are {', '.join(FAMILIES)}")
    load: Callable[[Path, Mapping[str, Any], int], Writer] = import_module(FAMILIES[family]).load
    return load(folder, config, users_at_once)
