"""How a reasoner is trained: budget, sizes, optimization.

Owns the settings and the error that says what is missing. Must not train.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.reasoner.training.loss import LossConfig


class TrainingError(ValueError):
    """There is nothing to learn from; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Budget, sizes and optimization. `minutes` None: the step budget alone counts.

    Every `validate_every` steps the newest `validation_share` of the events is asked about; training ends early after
    `patience` times without a better answer, and the best weights are kept (0 of either: not so). `distinct` trains
    on each item's first event only. `include_rare` puts items beyond `max_items` into the checkpoint as cold rows,
    known by their vectors. With `neighbors` co-occurrence is added to the network's scores, which weigh
    `network_weight` beside it, or where that is None what validation likes best. `device`: "auto" takes CUDA where it
    is, in bf16.
    """

    steps: int = 600
    minutes: float | None = None
    seed: int = 0
    max_items: int = 20_000
    include_rare: bool = False
    validation_share: float = 0.05
    validation_users: int = 2_000
    validate_every: int = 100
    patience: int = 5
    distinct: bool = True
    window: int = 64
    block: int = 16
    batch: int = 32
    masked_weight: float = 1.0
    negatives: int = 512
    full_softmax_items: int = 5_000
    learning_rate: float = 6e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    id_dropout: float = 0.3
    width: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.1
    neighbors: bool = True
    network_weight: float | None = None
    device: str = "auto"

    @property
    def loss(self) -> LossConfig:
        """What the loss needs."""
        return LossConfig(
            block=self.block,
            masked_weight=self.masked_weight,
            id_dropout=self.id_dropout,
            negatives=self.negatives,
            full_softmax_items=self.full_softmax_items,
        )

    @property
    def torch_device(self) -> torch.device:
        """Where to train."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)
