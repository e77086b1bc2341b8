"""How a reasoner is trained: budget, data, loss, optimization, sizes. Must not train."""

from __future__ import annotations

from dataclasses import dataclass

import torch


class TrainingError(ValueError):
    """There is nothing to learn from; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Everything that decides the weights but the data; saved in the checkpoint."""

    # Budget: the first that is reached ends the run.
    steps: int = 600
    minutes: float | None = None  # None: the step budget alone counts, and the same input gives the same weights
    patience: int = 5  # validations without a better answer; the best weights are kept. 0: never ends early
    seed: int = 0
    device: str = "auto"  # "auto": CUDA where there is one (in bfloat16), else the CPU

    # Data.
    max_items: int = 20_000  # the most frequent ones get id embeddings of their own
    include_rare: bool = False  # items beyond max_items go into the checkpoint as cold rows, known by their vectors
    distinct: bool = True  # only an item's first event: the next item is then always one beyond the log
    window: int = 64  # events of one training sequence

    # Validation: the newest events are held back and asked about.
    validation_share: float = 0.05  # of the events; 0: train on all of them
    validation_users: int = 2_000  # at most
    validate_every: int = 100  # steps

    # Loss.
    block: int = 16  # slots that are masked and read together
    masked_weight: float = 1.0  # of the masked loss beside the next-item loss
    full_softmax_items: int = 5_000  # up to so many items the softmax is full; beyond, it is sampled
    negatives: int = 512  # uniform items in a sampled softmax, besides the batch's own targets
    id_dropout: float = 0.3  # of item ids per step: the network must also read items by their knowledge alone

    # Optimization: AdamW, linear warm-up, then linear decay to 0.
    batch: int = 32  # sequences
    learning_rate: float = 6e-3
    weight_decay: float = 0.01  # of matrices alone
    warmup: float = 0.05  # share of the budget

    # Sizes; see `models.reasoner.network.NetworkConfig`.
    width: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.1

    # Co-occurrence beside the network; see `models.reasoner.training.calibration`.
    neighbors: bool = True
    network_weight: float | None = None  # what the network's scores weigh beside it; None: what validation likes best

    @property
    def torch_device(self) -> torch.device:
        """Where to train."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)
