"""Train the block-diffusion reasoner on a platform's own events: from a log and a catalogue to a checkpoint.

`fit` has the loop and the losses, `validation` the questions, `calibration` what is set after the last step. Must not
know where events come from. Same events, catalogue, seed, step budget, device and thread count: same weights,
interrupted and resumed or not. A time cap that is reached ends that promise, which `metrics["steps"]` shows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.interactions import InteractionLog, Ints, TrainingEvents, UserHistory, code, most_frequent, split_time
from models.reasoner.catalogue import Catalogue
from models.reasoner.checkpoint import DEFAULT_PLAN, Checkpoint, save
from models.reasoner.network import BlockDiffusionNetwork, NetworkConfig
from models.reasoner.sampler import SlotPlan
from models.reasoner.training.calibration import calibrate_cold_bias, weigh
from models.reasoner.training.config import TrainingConfig, TrainingError
from models.reasoner.training.fit import Corpus, TrainingFit, TrainingProgress
from models.reasoner.training.unfinished_run import UnfinishedRun
from models.reasoner.training.validation import Validation


def train_reasoner(
    events: TrainingEvents | Sequence[UserHistory],
    catalogue: Catalogue,
    config: TrainingConfig,
    out: Path,
    *,
    plan: SlotPlan = DEFAULT_PLAN,
    warm_start: Checkpoint | None = None,
    resume: bool = False,
    progress: Callable[[TrainingProgress], None] = lambda _: None,
    also: Callable[[Path], None] | None = None,
) -> Path:
    """Train, validate and save a checkpoint to `out`; returns `out`.

    Events of items that the catalogue does not hold are left out. `plan` is what the checkpoint's sampler will follow.
    `warm_start` begins at the weights of an earlier checkpoint of the same sizes; its items keep their ids, others
    begin as new ones. `resume` continues an interrupted run to the same `out`, of the same data and config. `also` adds
    files to the checkpoint folder before it appears (the aligner). Raises `TrainingError` where no user has two events
    left, or where `warm_start` does not fit.
    """
    columns = events if isinstance(events, TrainingEvents) else TrainingEvents.of_histories(events)
    log, rows = _log(columns, catalogue, config)
    # Validation asks about the newest events, so nothing may be learned from them.
    validated = config.validation_share > 0
    split = split_time(log, config.validation_share)
    train_log = log.take(log.times < split) if validated else log
    validation = Validation.of(log, split, config.validation_users if validated else 0, config.seed)

    counts = np.bincount(train_log.items, minlength=len(rows))
    vectors, _ = catalogue.at(rows)
    ids = catalogue.item_ids
    device = config.torch_device
    corpus = Corpus(
        torch.from_numpy(vectors).to(device),
        torch.from_numpy(counts / max(1, counts.sum())).float().to(device),
    )
    with torch.random.fork_rng():  # a caller's random numbers stay as they were
        torch.manual_seed(config.seed)
        network = _network(counts, catalogue.dims, config)
        if warm_start is not None:
            _begin_from(warm_start, network, [ids[row] for row in rows])
        run = UnfinishedRun(out, _identity(config, train_log, vectors, warm_start))
        if not resume:
            run.forget()
        fitted = TrainingFit(network.to(device), corpus, train_log, validation, config, run).run(progress)
        calibrate_cold_bias(network, corpus.vectors, train_log, config)
    table, weighing = None, None
    if config.neighbors:
        table, weighing = weigh(network, corpus.vectors, train_log, validation, config)
    metrics = {
        **fitted,
        "neighbors": weighing,
        "train_events": len(train_log.items),
        "items": len(counts),
        "users": train_log.user_count,
        "parameters": sum(p.numel() for p in network.parameters()),
        **validation.report(network, corpus.vectors, table, counts, distinct=config.distinct),
    }
    if config.include_rare:  # after the trained rows: the network knows these by their vectors alone
        rare = np.setdiff1d(catalogue.rows(catalogue.item_ids), np.append(rows, -1))
        rows = np.concatenate([rows, rare])
        vectors, _ = catalogue.at(rows)
    item_ids = tuple(ids[row] for row in rows)
    trained = Checkpoint(network.cpu(), item_ids, vectors, asdict(config), metrics, neighbors=table, plan=plan)
    save(trained, out, also)
    run.forget()  # only now: a crash before this line can still be resumed
    return out


def _log(columns: TrainingEvents, catalogue: Catalogue, config: TrainingConfig) -> tuple[InteractionLog, Ints]:
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
    old_row = {item_id: row for row, item_id in enumerate(start.item_ids[: theirs.items])}
    rows = torch.tensor([old_row.get(item_id, -1) for item_id in item_ids])
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


def _identity(
    config: TrainingConfig, log: InteractionLog, vectors: np.ndarray[Any, Any], start: Checkpoint | None
) -> str:
    """What must be the same for a run to be the same run."""
    digest = 0
    for part in (log.users, log.items, log.times, vectors):
        digest = zlib.crc32(np.ascontiguousarray(part).tobytes(), digest)
    return f"{config} {digest} {start.revision if start else ''}"
