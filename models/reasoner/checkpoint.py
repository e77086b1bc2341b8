"""A trained reasoner on disk: weights, the catalogue it was trained on, its configuration and its metrics.

Owns the folder's layout and its atomic replacement: a folder either holds a whole checkpoint or does not exist.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import numpy as numpy_tensors
from safetensors import torch as torch_tensors

from models.reasoner.catalogue import Catalogue, Vectors
from models.reasoner.cooccurrence_table import NeighborTable
from models.reasoner.network import BlockDiffusionNetwork, NetworkConfig
from models.reasoner.sampler import SlotPlan

WEIGHTS = "reasoner.safetensors"
CATALOGUE = "catalogue.safetensors"
NEIGHBORS = "neighbours.safetensors"  # as in checkpoints that exist: a missing file is no table, silently
ITEM_IDS = "item_ids.json"
CONFIG = "config.json"
METRICS = "metrics.json"
ALIGNER = "aligner.safetensors"
FORMAT = 2
DEFAULT_PLAN = SlotPlan()


class CheckpointError(ValueError):
    """The folder holds no checkpoint that this program can read; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`item_ids` and `vectors` (N, dims): the network's `config.items` id rows first, cold items after them.

    `settings` is how it was trained, `metrics` what validation said. `neighbors` are of the id rows. `plan` is how its
    slots are placed and fixed.
    """

    network: BlockDiffusionNetwork
    item_ids: tuple[str, ...]
    vectors: Vectors
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]
    revision: str = ""
    neighbors: NeighborTable | None = None
    plan: SlotPlan = DEFAULT_PLAN

    def catalogue(self) -> Catalogue:
        """A live catalogue that begins with the items of the checkpoint."""
        return Catalogue(self.item_ids, self.vectors)


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder holds a checkpoint."""
    return (folder / CONFIG).is_file()


def save(checkpoint: Checkpoint, folder: Path, also: Callable[[Path], None] | None = None) -> None:
    """Write beside the folder, then swap. `also` may add files (the aligner) to the folder it is given."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        torch_tensors.save_file(checkpoint.network.state_dict(), new / WEIGHTS)
        numpy_tensors.save_file({"vectors": np.ascontiguousarray(checkpoint.vectors)}, new / CATALOGUE)
        if checkpoint.neighbors is not None:
            table = checkpoint.neighbors
            tensors = {"rows": table.rows.int(), "weights": table.weights, "half_life": torch.tensor(table.half_life)}
            torch_tensors.save_file(tensors, new / NEIGHBORS)
        (new / ITEM_IDS).write_text(json.dumps(checkpoint.item_ids))
        (new / METRICS).write_text(json.dumps(checkpoint.metrics, indent=2))
        config = {
            "format": FORMAT,
            "network": asdict(checkpoint.network.config),
            "training": dict(checkpoint.settings),
            "sampler": checkpoint.plan.saved(),
        }
        (new / CONFIG).write_text(json.dumps(config, indent=2))
        if also is not None:
            also(new)
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)
        if old.exists():
            shutil.rmtree(old)


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint; raises `CheckpointError` where there is none or it does not fit."""
    if not is_checkpoint(folder):
        raise CheckpointError(f"no reasoner checkpoint in {folder}; `freshet train reasoner` makes one")
    config = json.loads((folder / CONFIG).read_text())
    if config.get("format") != FORMAT:
        raise CheckpointError(f"{folder} has checkpoint format {config.get('format')}, wanted {FORMAT}")
    try:
        with torch.device("meta"):  # no random start: it would cost time and move the global generator
            network = BlockDiffusionNetwork(NetworkConfig(**config["network"]))
        network.load_state_dict(torch_tensors.load_file(folder / WEIGHTS), assign=True)
        vectors = numpy_tensors.load_file(folder / CATALOGUE)["vectors"]
        neighbors = _neighbors(folder / NEIGHBORS)
        item_ids = tuple(json.loads((folder / ITEM_IDS).read_text()))
        metrics = json.loads((folder / METRICS).read_text())
        plan = SlotPlan(**config.get("sampler", {}))  # checkpoints from before it was saved have the defaults
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder} holds no whole checkpoint: {error}") from error
    if len(item_ids) != len(vectors) or len(item_ids) < network.config.items:
        raise CheckpointError(
            f"{folder}: {len(item_ids)} ids, {len(vectors)} vectors, {network.config.items} rows do not fit"
        )
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:12]
    network.eval().requires_grad_(False)
    return Checkpoint(network, item_ids, vectors, config["training"], metrics, digest, neighbors, plan)


def _neighbors(file: Path) -> NeighborTable | None:
    if not file.exists():
        return None
    tensors = torch_tensors.load_file(file)
    return NeighborTable(tensors["rows"].long(), tensors["weights"], float(tensors["half_life"]))
