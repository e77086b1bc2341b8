"""An unfinished training run on disk: what it takes to go on as if nothing had happened.

Owns the file and its atomic replacement. Must not know what is trained.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(slots=True)
class TrainingState:
    """State of a run after `step` steps; `best_*` belongs to the best validation so far."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    best_score: float = float("-inf")
    best_step: int = 0
    best_weights: Mapping[str, torch.Tensor] | None = None
    worse: int = 0


class UnfinishedRun:
    """The file of a run that will save to `out`; `identity` says which run it is."""

    def __init__(self, out: Path, identity: str) -> None:
        out = out.resolve()
        self.file = out.parent / f".{out.name}-unfinished.pt"
        self._identity = hashlib.sha256(identity.encode()).hexdigest()

    def save(self, state: TrainingState, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write beside the file, then swap."""
        content: dict[str, Any] = {
            "identity": self._identity,
            "state": {name: getattr(state, name) for name in TrainingState.__slots__},
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": torch.random.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        new = self.file.with_suffix(".new")
        torch.save(content, new)
        os.replace(new, self.file)

    def load(self, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState | None:
        """Set network, optimizer and the random generators to where the run stood; None where there is none.

        A run of other data, items or settings is another run: None as well.
        """
        if not self.file.exists():
            return None
        content = torch.load(self.file, weights_only=True)
        if content["identity"] != self._identity:
            return None
        network.load_state_dict(content["network"])
        optimizer.load_state_dict(content["optimizer"])
        torch.random.set_rng_state(content["random"])
        if content["cuda_random"]:
            torch.cuda.set_rng_state_all(content["cuda_random"])
        return TrainingState(**content["state"])

    def forget(self) -> None:
        """Remove the file: the run has ended."""
        self.file.unlink(missing_ok=True)
