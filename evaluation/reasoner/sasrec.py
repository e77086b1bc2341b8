"""SASRec (arXiv 1808.09781), the baseline that has to be beaten, trained with full-softmax cross-entropy.

Owns its network, training and scores. As published: causal self-attention, learned positions, tied output. As found to
be its best form since (arXiv 2309.07602): cross-entropy over the whole catalogue. Same embeddings as ours (id +
projected knowledge vector, bias begun at popularity), same windows, width, layers, batch and step budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluation.reasoner.measures import Scorer, Scores
from evaluation.reasoner.splits import Case
from models.reasoner.catalogue import Vectors
from models.reasoner.sequences import Ints, TrainingLog, first_events, padded, sequences, windows


@dataclass(frozen=True, slots=True, kw_only=True)
class SasRecConfig:
    """Sizes and budget; steps (up to the budget), learning rate, dropout and id-dropout are what is tuned."""

    steps: int = 600
    learning_rate: float = 3e-3
    dropout: float = 0.2
    id_dropout: float = 0.0
    window: int = 64
    batch: int = 32
    width: int = 64
    layers: int = 2
    heads: int = 2
    weight_decay: float = 0.01
    warmup: float = 0.05
    seed: int = 0


class SasRec(nn.Module):
    """Item rows in, states out; row `items` pads."""

    def __init__(self, items: int, dims: int, config: SasRecConfig) -> None:
        super().__init__()
        self.ids = nn.Parameter(torch.randn(items, config.width) * 0.5 / math.sqrt(config.width))
        self.bias = nn.Parameter(torch.zeros(items))
        self.knowledge = nn.Linear(dims, config.width, bias=False)
        self.positions = nn.Parameter(torch.randn(config.window, config.width) * 0.5 / math.sqrt(config.width))
        nn.init.normal_(self.knowledge.weight, std=0.5 / math.sqrt(config.width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width,
                config.heads,
                4 * config.width,
                config.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def embed(self, vectors: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Embeddings (N, width); `dropped` (N,) items are known by their vector alone."""
        ids = self.ids if dropped is None else self.ids * (~dropped)[:, None]
        embeddings: Tensor = self.knowledge(vectors) + ids
        return embeddings

    def forward(self, rows: Tensor, embeddings: Tensor) -> Tensor:
        """States (B, T, width) of rows (B, T) padded on the right: state p has seen p and what came before."""
        length = rows.shape[1]
        x = self.dropout(functional.embedding(rows, embeddings) + self.positions[:length])
        causal = torch.ones(length, length, dtype=torch.bool).triu(1)  # padding comes later: causal hides it
        for layer in self.layers:
            x = layer(x, src_mask=causal)
        states: Tensor = self.norm(x)
        return states


def train_sasrec(
    log: TrainingLog,
    vectors: Vectors,
    config: SasRecConfig,
    *,
    progress: Callable[[float], None] = lambda _: None,
) -> Scorer:
    """The scorer of a trained network. Each item's first event counts, as for ours: asked is the next new item."""
    rng = np.random.default_rng(config.seed)
    knowledge = torch.from_numpy(vectors)
    counts = torch.from_numpy(np.log1p(np.bincount(log.items, minlength=len(vectors)))).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = SasRec(len(vectors), vectors.shape[1], config)
        with torch.no_grad():
            network.bias.copy_(counts - counts.mean())
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
        )
        for step, (rows, lengths) in zip(range(config.steps), _batches(log, config, rng), strict=False):
            share = step / config.steps
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * min(share / config.warmup + 0.01, 1.0 - share, 1.0)
            loss = cross_entropy(network, knowledge, torch.from_numpy(rows), torch.from_numpy(lengths), config)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            progress(share)
    network.eval().requires_grad_(False)
    return sasrec_scorer(network, knowledge, config)


def _batches(log: TrainingLog, config: SasRecConfig, rng: np.random.Generator) -> Iterator[tuple[Ints, Ints]]:
    """Windows without end, ties shuffled anew in each epoch; one item more than is read, to be predicted."""
    while True:
        for rows, lengths, *_ in windows(sequences(log, rng, distinct=True), config.window + 1, config.batch, rng):
            yield rows, lengths


def cross_entropy(network: SasRec, knowledge: Tensor, rows: Tensor, lengths: Tensor, config: SasRecConfig) -> Tensor:
    """Mean over the positions of windows `rows` (B, T + 1), each predicting the next, softmax over all items."""
    dropped = torch.rand(len(knowledge)) < config.id_dropout if config.id_dropout else None
    embeddings = network.embed(knowledge, dropped)
    states = network(rows[:, :-1], embeddings)  # (B, T, width)
    inside = torch.arange(1, rows.shape[1]) < lengths[:, None]
    logits = functional.linear(states[inside], embeddings, network.bias)
    return functional.cross_entropy(logits, rows[:, 1:][inside])


def sasrec_scorer(network: SasRec, knowledge: Tensor, config: SasRecConfig) -> Scorer:
    """Scores of the next item, from the newest `window` different items."""

    @torch.inference_mode()
    def scorer(cases: Sequence[Case]) -> Scores:
        embeddings = network.embed(knowledge)
        read = padded([first_events(case.history)[-config.window :] for case in cases])
        rows, lengths = map(torch.from_numpy, read)
        last = network(rows, embeddings)[torch.arange(len(rows)), lengths - 1]
        scores: Scores = functional.linear(last, embeddings, network.bias).numpy()
        return scores

    return scorer
