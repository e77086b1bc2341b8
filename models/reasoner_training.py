"""Train the block-diffusion reasoner on a platform's own events.

Owns the loss, the schedule and the budget; `models.sequences` makes the batches, `models.ranking` judges. Must not
know where events or vectors come from. Same events, catalogue, seed, step budget and thread count: same weights. A
time cap that strikes ends that promise, which `metrics["steps"]` shows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models import ranking
from models.block_diffusion import BlockDiffusionNetwork, NetworkConfig
from models.catalogue import Catalogue
from models.checkpoint import Checkpoint, save
from models.reasoner import UserHistory
from models.sequences import (
    EventColumns,
    Ints,
    Log,
    Question,
    code,
    first_events,
    most_frequent,
    questions,
    sequences,
    split_time,
    windows,
)

LEAST_MASKED = 0.1
"""Smallest share of masks in a block: 1/t is unbounded below, and one lonely mask says little."""
COLD_SAMPLE = 0.2
"""Share of items treated as new when their bias is calibrated."""


class TrainingError(ValueError):
    """There is nothing to learn from; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Budget, sizes and optimisation. `minutes` None: the step budget alone counts.

    `distinct` trains on each item's first event only. `include_rare` puts items beyond `max_items` into the
    checkpoint as cold rows, known by their vectors.
    """

    steps: int = 600
    minutes: float | None = None
    seed: int = 0
    max_items: int = 20_000
    include_rare: bool = False
    validation_share: float = 0.05
    validation_users: int = 2_000
    distinct: bool = True
    window: int = 64
    block: int = 16
    batch: int = 32
    negatives: int = 512
    learning_rate: float = 6e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    id_dropout: float = 0.3
    width: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands: share done in [0, 1], steps, and the running next-item loss in nats."""

    share: float
    step: int
    loss: float


def train_reasoner(
    events: EventColumns | Sequence[UserHistory],
    catalogue: Catalogue,
    config: TrainingConfig,
    out: Path,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    also: Callable[[Path], None] | None = None,
) -> Path:
    """Train, validate and save a checkpoint to `out`; returns `out`.

    Events of items that the catalogue does not hold are left out. `also` adds files to the checkpoint folder before
    it appears (the aligner). Raises `TrainingError` where fewer than two events of one user are left.
    """
    columns = events if isinstance(events, EventColumns) else EventColumns.of_histories(events)
    rng = np.random.default_rng(config.seed)
    log, chosen = _log(columns, catalogue, config)
    split = split_time(log, config.validation_share)
    past = log.take(log.times < split) if config.validation_share > 0 else log
    counts = np.bincount(past.items, minlength=len(chosen))
    vectors, _ = catalogue.at(chosen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = _network(counts, catalogue.dims, config)
        fitted = _fit(network, torch.from_numpy(vectors), past, counts, config, rng, progress)
        _calibrate_cold_bias(network, torch.from_numpy(vectors), past, config, rng)
    metrics = {**fitted, **validate(network, vectors, log, split, counts, config)}
    if config.include_rare:
        rare = np.setdiff1d(catalogue.rows(catalogue.item_ids), np.append(chosen, -1))
        chosen = np.concatenate([chosen, rare])
        vectors, _ = catalogue.at(chosen)
    ids = catalogue.item_ids
    item_ids = tuple(ids[row] for row in chosen)
    save(Checkpoint(network, item_ids, vectors, asdict(config), metrics), out, also)
    return out


def _log(columns: EventColumns, catalogue: Catalogue, config: TrainingConfig) -> tuple[Log, Ints]:
    """The log over the most frequent items, coded 0..N-1, and their catalogue rows (N,)."""
    rows = catalogue.rows(columns.item_ids)
    if not (rows >= 0).any():
        raise TrainingError(f"none of {len(rows)} events is about an item of the catalogue ({len(catalogue)} items)")
    chosen = most_frequent(rows[rows >= 0], config.max_items)
    code_of = np.full(len(catalogue) + 1, -1, dtype=np.int64)  # the last entry serves row -1
    code_of[chosen] = np.arange(len(chosen))
    log = code(columns, code_of[rows])
    if not (log.users[1:] == log.users[:-1]).any():
        raise TrainingError("no user has two events: there is no sequence to learn from")
    return log, chosen


def _network(counts: NDArray[np.int64], dims: int, config: TrainingConfig) -> BlockDiffusionNetwork:
    sizes = NetworkConfig(
        items=len(counts),
        knowledge_dims=dims,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        feedforward=4 * config.width,
        dropout=config.dropout,
    )
    network = BlockDiffusionNetwork(sizes)
    with torch.no_grad():  # begin at popularity: the first steps need not learn it
        log_counts = torch.from_numpy(np.log(counts + 1.0)).float()
        network.bias.copy_(log_counts - log_counts.mean())
    return network


def _fit(
    network: BlockDiffusionNetwork,
    vectors: Tensor,
    log: Log,
    counts: NDArray[np.int64],
    config: TrainingConfig,
    rng: np.random.Generator,
    progress: Callable[[Progress], None],
) -> dict[str, Any]:
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
    unigram = torch.from_numpy(counts / max(1, counts.sum())).float()
    cap_s = math.inf if config.minutes is None else 60.0 * config.minutes
    began = time.monotonic()
    network.train()
    running, step, share = 0.0, 0, 0.0
    for rows, lengths in _batches(log, config, rng):
        share = max(step / config.steps, (time.monotonic() - began) / cap_s)
        if share >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(share / config.warmup + 0.01, 1.0 - share, 1.0)
        dense, masked = losses(network, vectors, torch.from_numpy(rows), torch.from_numpy(lengths), unigram, config)
        optimizer.zero_grad(set_to_none=True)
        (dense + masked).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        loss = dense.item()
        running = loss if step == 0 else 0.98 * running + 0.02 * loss
        step += 1
        progress(Progress(min(1.0, share), step, running))
    network.eval()
    progress(Progress(1.0, step, running))
    return {
        "steps": step,
        "train_seconds": round(time.monotonic() - began, 2),
        "train_loss": round(running, 4),
        "train_events": len(log.items),
        "items": len(counts),
        "users": log.user_count,
        "parameters": sum(p.numel() for p in network.parameters()),
    }


def _batches(log: Log, config: TrainingConfig, rng: np.random.Generator) -> Iterator[tuple[Ints, Ints]]:
    """Batches without end; ties are shuffled anew in each epoch."""
    while True:
        before = None
        for batch in windows(sequences(log, rng, distinct=config.distinct), config.window, config.batch, rng):
            yield (before := batch)
        if before is None:
            raise TrainingError("no user has two different items before the validation split")


def losses(
    network: BlockDiffusionNetwork,
    vectors: Tensor,
    rows: Tensor,
    lengths: Tensor,
    unigram: Tensor,
    config: TrainingConfig,
) -> tuple[Tensor, Tensor]:
    """Dense next-item cross-entropy, and 1/t-weighted masked cross-entropy, of windows `rows` (B, T).

    An item whose id is dropped in this step, on the input and on the output, is read as a new one.
    """
    batch, length = rows.shape
    places = torch.arange(length)
    inside = places < lengths[:, None]
    blocks = -(-length // config.block)
    share = torch.empty(batch, blocks).uniform_(LEAST_MASKED, 1.0).repeat_interleave(config.block, 1)[:, :length]
    hidden = (torch.rand(batch, length) < share) & inside
    embeddings, bias = network.embed(vectors, kept_ids(len(vectors), config.id_dropout))
    clean = functional.embedding(rows, embeddings)  # (B, T, width)
    noisy = torch.where(hidden[..., None], network.mask, clean)
    dense, shifted = network(clean, noisy, lengths, config.block)
    wanted = hidden & (places % config.block != 0)  # a block's first slot is the dense loss already
    states = torch.cat([dense[inside], shifted[wanted]])
    targets = torch.cat([rows[inside], rows[wanted]])
    each = sampled_cross_entropy(states, targets, embeddings, bias, unigram, config.negatives)
    split = int(inside.sum())
    weighted = (each[split:] / share[wanted]).sum() / split
    return each[:split].mean(), weighted


def kept_ids(items: int, dropout: float) -> Tensor:
    """Id row of each item, -1 where it is dropped."""
    return torch.where(torch.rand(items) < dropout, -1, torch.arange(items))


def sampled_cross_entropy(
    states: Tensor, targets: Tensor, embeddings: Tensor, bias: Tensor, unigram: Tensor, negatives: int
) -> Tensor:
    """Cross-entropy (P,) over the batch's own targets and `negatives` uniform items, corrected for their sampling.

    The logits lose log q, q being an item's chance to be among the candidates: the loss differs from the full one,
    the scores that minimise it do not. With at least as many negatives as items this is the full softmax. At 10
    thousand items it makes a step three times cheaper.
    """
    items = len(embeddings)
    if negatives >= items:
        return functional.cross_entropy(functional.linear(states, embeddings, bias), targets, reduction="none")
    candidates = torch.unique(torch.cat([targets, torch.randint(items, (negatives,))]))
    place = torch.zeros(items, dtype=torch.long)
    place[candidates] = torch.arange(len(candidates))
    missed = negatives * math.log1p(-1 / items) + len(targets) * torch.log1p(-unigram[candidates].clamp(max=0.99))
    chance = -torch.expm1(missed)
    logits = functional.linear(states, embeddings[candidates], bias[candidates] - chance.log())
    return functional.cross_entropy(logits, place[targets], reduction="none")


@torch.inference_mode()
def _calibrate_cold_bias(
    network: BlockDiffusionNetwork, vectors: Tensor, log: Log, config: TrainingConfig, rng: np.random.Generator
) -> None:
    """Set the bias of new items so that a sample treated as new gets, in sum, the share of events it really has."""
    rows, lengths = next(windows(sequences(log, rng, distinct=config.distinct), config.window, 16, rng))
    items = len(vectors)
    cold = torch.rand(items) < COLD_SAMPLE
    if not cold.any() or cold.all():
        return
    trained = torch.where(cold, -1, torch.arange(items))
    embeddings, bias = network.embed(vectors, trained)
    history = functional.embedding(torch.from_numpy(rows), embeddings)
    prefix = network.prefix(history, torch.from_numpy(lengths))
    logits = network.scores(prefix.last, embeddings, bias)
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


def network_scorer(
    network: BlockDiffusionNetwork, vectors: Tensor, *, distinct: bool, history: int = 200
) -> ranking.Scorer:
    """Scores of the next item."""

    @torch.inference_mode()
    def scorer(part: Sequence[Question]) -> ranking.Scores:
        embeddings, bias = network.embed(vectors, torch.arange(len(vectors)))
        read = [first_events(question.history) if distinct else question.history for question in part]
        read = [rows[-history:] for rows in read]
        lengths = torch.tensor([len(rows) for rows in read])
        padded = torch.zeros(len(read), int(lengths.max()), dtype=torch.long)
        for user, rows in enumerate(read):
            padded[user, : len(rows)] = torch.from_numpy(rows)
        prefix = network.prefix(functional.embedding(padded, embeddings), lengths)
        scores: ranking.Scores = network.scores(prefix.last, embeddings, bias).numpy()
        return scores

    return scorer


def validate(
    network: BlockDiffusionNetwork,
    vectors: NDArray[np.float32],
    log: Log,
    split: int,
    counts: NDArray[np.int64],
    config: TrainingConfig,
) -> dict[str, Any]:
    """HR@10 and NDCG@10 after the split, for the model and for popularity: next new item, next item of any kind."""
    # Own draws: the questions must not depend on how long training ran.
    rng = np.random.default_rng([config.seed, 1])
    novel, every = questions(log, split, config.validation_users, rng)
    model = network_scorer(network, torch.from_numpy(vectors), distinct=config.distinct)
    popular = ranking.popularity(counts)
    result: dict[str, Any] = {"validation_users": len(novel)}
    for name, asked, is_novel in (("", novel, True), ("all_", every, False)):
        for prefix, scorer in ((name, model), (f"{name}popularity_", popular)):
            for key, value in ranking.ranking_metrics(asked, scorer, novel=is_novel).items():
                result[prefix + key] = value
    return result
