"""Train the block-diffusion reasoner on a platform's own events.

Owns the way from events to a checkpoint and where it begins: at random, at an earlier one, or where it was cut off.
`models.reasoner.sequences` makes the batches, `models.reasoner.training.loss` the losses,
`models.reasoner.training.loop` runs the steps, `models.reasoner.training.validation` judges,
`models.reasoner.training.blend` adds co-occurrence. Must not know where events are from. Same events, catalogue, seed,
step budget, device and thread count: same weights, interrupted and resumed or not. A time cap that strikes ends that
promise, which `metrics["steps"]` shows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.reasoner.catalogue import Catalogue
from models.reasoner.checkpoint import Checkpoint, save
from models.reasoner.network import BlockDiffusionNetwork, NetworkConfig
from models.reasoner.reasoner import UserHistory
from models.reasoner.sequences import (
    Ints,
    TrainingEvents,
    TrainingLog,
    code,
    most_frequent,
    sequences,
    split_time,
    windows,
)
from models.reasoner.training.blend import weigh
from models.reasoner.training.config import TrainingConfig, TrainingError
from models.reasoner.training.loop import TrainingFit, TrainingProgress
from models.reasoner.training.loss import Corpus
from models.reasoner.training.state import UnfinishedRun
from models.reasoner.training.validation import Validation

__all__ = ["TrainingConfig", "TrainingError", "TrainingProgress", "train_reasoner"]

COLD_SAMPLE = 0.2
"""Share of items treated as new when their bias is calibrated."""


def train_reasoner(
    events: TrainingEvents | Sequence[UserHistory],
    catalogue: Catalogue,
    config: TrainingConfig,
    out: Path,
    *,
    warm_start: Checkpoint | None = None,
    resume: bool = False,
    progress: Callable[[TrainingProgress], None] = lambda _: None,
    also: Callable[[Path], None] | None = None,
) -> Path:
    """Train, validate and save a checkpoint to `out`; returns `out`.

    Events of items that the catalogue does not hold are left out. `warm_start` begins at the weights of an earlier
    checkpoint of the same sizes; its items keep their ids, others begin as new ones. `resume` goes on where a run to
    the same `out`, of the same data and settings, was cut off. `also` adds files to the checkpoint folder before it
    appears (the aligner). Raises `TrainingError` where fewer than two events of one user are left, or where the
    checkpoint to begin from does not fit.
    """
    columns = events if isinstance(events, TrainingEvents) else TrainingEvents.of_histories(events)
    log, chosen = _log(columns, catalogue, config)
    split = split_time(log, config.validation_share)
    past = log.take(log.times < split) if config.validation_share > 0 else log
    counts = np.bincount(past.items, minlength=len(chosen))
    vectors, _ = catalogue.at(chosen)
    ids = catalogue.item_ids
    users = config.validation_users if config.validation_share > 0 else 0  # else all would have been trained on
    asked = Validation.of(log, split, users, config.seed)
    device = config.torch_device
    corpus = Corpus(
        torch.from_numpy(vectors).to(device),
        torch.from_numpy(counts / max(1, counts.sum())).float().to(device),
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = _network(counts, catalogue.dims, config)
        if warm_start is not None:
            _begin_from(warm_start, network, [ids[row] for row in chosen])
        run = UnfinishedRun(out, _identity(config, past, vectors, warm_start))
        if not resume:
            run.forget()
        fitted = TrainingFit(network.to(device), corpus, past, asked, config, run).run(progress)
        _calibrate_cold_bias(network, corpus.vectors, past, config)
    table, weighing = None, None
    if config.neighbors:
        table, weighing = weigh(network, corpus.vectors, past, asked, config)
    metrics = {
        **fitted,
        "neighbors": weighing,
        "train_events": len(past.items),
        "items": len(counts),
        "users": past.user_count,
        "parameters": sum(p.numel() for p in network.parameters()),
        **asked.report(network, corpus.vectors, table, counts, distinct=config.distinct),
    }
    if config.include_rare:
        rare = np.setdiff1d(catalogue.rows(catalogue.item_ids), np.append(chosen, -1))
        chosen = np.concatenate([chosen, rare])
        vectors, _ = catalogue.at(chosen)
    item_ids = tuple(ids[row] for row in chosen)
    made = Checkpoint(network.cpu(), item_ids, vectors, asdict(config), metrics, neighbors=table)
    save(made, out, also)
    run.forget()
    return out


def _log(columns: TrainingEvents, catalogue: Catalogue, config: TrainingConfig) -> tuple[TrainingLog, Ints]:
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


def _network(counts: Ints, dims: int, config: TrainingConfig) -> BlockDiffusionNetwork:
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


def _begin_from(start: Checkpoint, network: BlockDiffusionNetwork, item_ids: Sequence[str]) -> None:
    """Copy weights; an item the checkpoint does not know begins at its knowledge, with the popularity it has."""
    old, sizes = start.network, network.config
    theirs = old.config
    for name in ("knowledge_dims", "width", "layers", "heads", "feedforward"):
        if getattr(theirs, name) != getattr(sizes, name):
            raise TrainingError(
                f"the checkpoint to begin from has {name} {getattr(theirs, name)}, wanted {getattr(sizes, name)}"
            )
    place = {item_id: row for row, item_id in enumerate(start.item_ids[: theirs.items])}
    rows = torch.tensor([place.get(item_id, -1) for item_id in item_ids])
    known = rows >= 0
    if not known.any():
        raise TrainingError(f"none of {len(item_ids)} items is in the checkpoint to begin from")
    with torch.no_grad():
        ids = torch.where(known[:, None], old.ids[rows], 0.0)
        offset = (old.bias[rows[known]] - network.bias[known]).mean()
        bias = torch.where(known, old.bias[rows], network.bias + offset)
        # Not the checkpoint's, which was calibrated after its training: in training new items begin as average ones.
        cold_bias = bias[known].mean()
        fresh = {"ids": ids, "bias": bias, "cold_bias": cold_bias, "score_weight": network.score_weight}
        weights = {**old.state_dict(), **fresh}
    network.load_state_dict(weights)


def _identity(config: TrainingConfig, log: TrainingLog, vectors: np.ndarray[Any, Any], start: Checkpoint | None) -> str:
    """What must be the same for a run to be the same run."""
    digest = 0
    for part in (log.users, log.items, log.times, vectors):
        digest = zlib.crc32(np.ascontiguousarray(part).tobytes(), digest)
    return f"{config} {digest} {start.revision if start else ''}"


@torch.inference_mode()
def _calibrate_cold_bias(
    network: BlockDiffusionNetwork, vectors: Tensor, log: TrainingLog, config: TrainingConfig
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
