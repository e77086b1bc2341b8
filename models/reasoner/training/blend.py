"""What the network's scores weigh beside co-occurrence, once it is trained.

Owns the table of neighbors of a training run, and the choice of its settings and of the network's weight. Both
logits are added (a logarithmic opinion pool). Trained on top of co-occurrence, with each user's own pairs left out, the
network was no better. Must not train.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.reasoner import ranking_metrics as ranking
from models.reasoner.cooccurrence_table import NeighborConfig, NeighborTable, count_pairs, neighbors
from models.reasoner.network import BlockDiffusionNetwork
from models.reasoner.sequences import TrainingLog
from models.reasoner.training.config import TrainingConfig
from models.reasoner.training.validation import Validation, neighbor_scorer, network_scorer

HALF_LIVES = (3.0, 6.0, 12.0, 30.0)
DAMPINGS = (0.25, 0.5)
NETWORK_WEIGHTS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
TUNING_USERS = 1_000
UNASKED_WEIGHT = 0.2
"""Where there is no validation."""


@torch.inference_mode()
def weigh(
    network: BlockDiffusionNetwork, vectors: Tensor, log: TrainingLog, asked: Validation, config: TrainingConfig
) -> tuple[NeighborTable, dict[str, Any]]:
    """The neighbors in `log`, with the settings that rank best by themselves; sets the network's `score_weight`.

    The second value says what was chosen.
    """
    items = len(vectors)
    best = NeighborConfig()
    rng = np.random.default_rng([config.seed, 4])
    pairs = count_pairs(log, items, rng, distinct=config.distinct, window=best.window)
    asked = asked.some(TUNING_USERS)
    if asked.every:
        tried = []
        for damping in DAMPINGS:
            table = neighbors(pairs, items, replace(best, damping=damping))
            for half_life in HALF_LIVES:
                scorer = neighbor_scorer(replace(table, half_life=half_life), items, distinct=config.distinct)
                tried.append((asked.ndcg(scorer), half_life, damping))
        _, half_life, damping = max(tried)
        best = replace(best, half_life=half_life, damping=damping)
    table = neighbors(pairs, items, best)
    weight = config.network_weight
    if weight is None:
        weight = _best_weight(network, vectors, table, asked, config) if asked.every else UNASKED_WEIGHT
    network.score_weight.fill_(weight)
    return table, {**asdict(best), "network_weight": weight}


def _best_weight(
    network: BlockDiffusionNetwork, vectors: Tensor, table: NeighborTable, asked: Validation, config: TrainingConfig
) -> float:
    alone = network_scorer(network, vectors, distinct=config.distinct)
    near = neighbor_scorer(table, len(vectors), distinct=config.distinct)

    def pooled(weight: float) -> ranking.Scorer:
        return lambda part: weight * alone(part) + near(part)

    return max(NETWORK_WEIGHTS, key=lambda weight: asked.ndcg(pooled(weight)))
