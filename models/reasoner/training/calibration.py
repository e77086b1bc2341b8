"""What is set once a network is trained: the bias of new items, and what its scores weigh beside co-occurrence.

Owns the choice of both, and the co-occurrence table of a run. Must not train. Scores of network and table are added as
logits (a logarithmic opinion pool).
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.interactions import InteractionLog
from models.reasoner import ranking_metrics as ranking
from models.reasoner.cooccurrence_table import NeighborConfig, NeighborTable, count_pairs, neighbors
from models.reasoner.network import BlockDiffusionNetwork
from models.reasoner.sequences import sequences, windows
from models.reasoner.training.config import TrainingConfig
from models.reasoner.training.validation import Validation, neighbor_scorer, network_scorer

COLD_SAMPLE = 0.2
"""Share of items treated as new when their bias is calibrated."""
HALF_LIVES = (3.0, 6.0, 12.0, 30.0)
DAMPINGS = (0.25, 0.5)
NETWORK_WEIGHTS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
TUNING_USERS = 1_000
UNVALIDATED_WEIGHT = 0.2
"""Where nothing is held back for validation."""


@torch.inference_mode()
def calibrate_cold_bias(
    network: BlockDiffusionNetwork, vectors: Tensor, log: InteractionLog, config: TrainingConfig
) -> None:
    """Set the bias of new items so that a sample treated as new gets, in sum, the share of events it really has."""
    rng = np.random.default_rng([config.seed, 3])
    rows, lengths = next(windows(sequences(log, rng, distinct=config.distinct), config.window, 16, rng))
    items = len(vectors)
    cold = torch.from_numpy(rng.random(items) < COLD_SAMPLE)
    if not cold.any() or cold.all():
        return
    trained = torch.where(cold, -1, torch.arange(items)).to(vectors.device)
    embeddings, bias = network.embed(vectors, trained)
    history = functional.embedding(torch.from_numpy(rows).to(vectors.device), embeddings)
    prefix = network.prefix(history, torch.from_numpy(lengths).to(vectors.device))
    logits = network.scores(prefix.last, embeddings, bias).cpu()
    share = float(np.isin(log.items, torch.nonzero(cold)[:, 0].numpy()).mean())
    if not 0.0 < share < 1.0:
        return
    # Shift s solves sigmoid(s + log-odds of a state) = share on average, by bisection.
    odds = logits[:, cold].logsumexp(1) - logits[:, ~cold].logsumexp(1)
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float((odds + middle).sigmoid().mean()) < share else (low, middle)
    network.cold_bias.add_((low + high) / 2)


@torch.inference_mode()
def weigh(
    network: BlockDiffusionNetwork, vectors: Tensor, log: InteractionLog, validation: Validation, config: TrainingConfig
) -> tuple[NeighborTable, dict[str, Any]]:
    """The neighbors in `log`, and what was chosen for them; sets the network's `score_weight`.

    Half-life and damping are those that rank best by themselves, the weight the one that ranks best beside them.
    """
    # Training the network on top of co-occurrence, each user's own pairs left out, was tried and was no better.
    items = len(vectors)
    best = NeighborConfig()
    rng = np.random.default_rng([config.seed, 4])
    pairs = count_pairs(log, items, rng, distinct=config.distinct, window=best.window)
    validation = validation.some(TUNING_USERS)
    if validation.every:
        tried = []
        for damping in DAMPINGS:
            table = neighbors(pairs, items, replace(best, damping=damping))
            for half_life in HALF_LIVES:
                scorer = neighbor_scorer(replace(table, half_life=half_life), items, distinct=config.distinct)
                tried.append((validation.ndcg(scorer), half_life, damping))
        _, half_life, damping = max(tried)
        best = replace(best, half_life=half_life, damping=damping)
    table = neighbors(pairs, items, best)
    weight = config.network_weight
    if weight is None:
        weight = _best_weight(network, vectors, table, validation, config) if validation.every else UNVALIDATED_WEIGHT
    network.score_weight.fill_(weight)
    return table, {**asdict(best), "network_weight": weight}


def _best_weight(
    network: BlockDiffusionNetwork,
    vectors: Tensor,
    table: NeighborTable,
    validation: Validation,
    config: TrainingConfig,
) -> float:
    alone = network_scorer(network, vectors, distinct=config.distinct)
    near = neighbor_scorer(table, len(vectors), distinct=config.distinct)

    def pooled(weight: float) -> ranking.Scorer:
        return lambda part: weight * alone(part) + near(part)

    return max(NETWORK_WEIGHTS, key=lambda weight: validation.ndcg(pooled(weight)))
