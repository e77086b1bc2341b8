"""Train the block-diffusion reasoner on a platform's own events.

Owns the schedule, the budget, early stopping, resuming and the warm start; `models.sequences` makes the batches,
`models.reasoner_loss` the losses, `models.reasoner_validation` judges. Must not know where events or vectors come from.
Same events, catalogue, seed, step budget, device and thread count: same weights, interrupted and resumed or not. A time
cap that strikes ends that promise, which `metrics["steps"]` shows.
"""

from __future__ import annotations

import copy
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.block_diffusion import BlockDiffusionNetwork, NetworkConfig
from models.catalogue import Catalogue
from models.checkpoint import Checkpoint, save
from models.reasoner import UserHistory
from models.reasoner_loss import Corpus, LossConfig, losses
from models.reasoner_validation import Validation, network_scorer
from models.reasoner_weighing import weigh
from models.sequences import EventColumns, Ints, Log, code, most_frequent, sequences, split_time, windows
from models.training_state import TrainingState, UnfinishedRun

COLD_SAMPLE = 0.2
"""Share of items treated as new when their bias is calibrated."""


class TrainingError(ValueError):
    """There is nothing to learn from; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Budget, sizes and optimisation. `minutes` None: the step budget alone counts.

    Every `validate_every` steps the newest `validation_share` of the events is asked about; training ends early after
    `patience` times without a better answer, and the best weights are kept (0 of either: not so). `distinct` trains
    on each item's first event only. `include_rare` puts items beyond `max_items` into the checkpoint as cold rows,
    known by their vectors. With `neighbours` co-occurrence is added to the network's scores, which weigh
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
    neighbours: bool = True
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


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands: share done in [0, 1], steps, the running next-item loss in nats, the best NDCG@10 yet."""

    share: float
    step: int
    loss: float
    best: float = 0.0


def train_reasoner(
    events: EventColumns | Sequence[UserHistory],
    catalogue: Catalogue,
    config: TrainingConfig,
    out: Path,
    *,
    warm_start: Checkpoint | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    also: Callable[[Path], None] | None = None,
) -> Path:
    """Train, validate and save a checkpoint to `out`; returns `out`.

    Events of items that the catalogue does not hold are left out. `warm_start` begins at the weights of an earlier
    checkpoint of the same sizes; its items keep their ids, others begin as new ones. `resume` goes on where a run to
    the same `out`, of the same data and settings, was cut off. `also` adds files to the checkpoint folder before it
    appears (the aligner). Raises `TrainingError` where fewer than two events of one user are left, or where the
    checkpoint to begin from does not fit.
    """
    columns = events if isinstance(events, EventColumns) else EventColumns.of_histories(events)
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
        fitted = _Fit(network.to(device), corpus, past, asked, config, run).run(progress)
        _calibrate_cold_bias(network, corpus.vectors, past, config)
    table, weighing = None, None
    if config.neighbours:
        table, weighing = weigh(network, corpus.vectors, past, asked, config)
    metrics = {
        **fitted,
        "neighbours": weighing,
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
    made = Checkpoint(network.cpu(), item_ids, vectors, asdict(config), metrics, neighbours=table)
    save(made, out, also)
    run.forget()
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


def _identity(config: TrainingConfig, log: Log, vectors: np.ndarray[Any, Any], start: Checkpoint | None) -> str:
    """What must be the same for a run to be the same run."""
    digest = 0
    for part in (log.users, log.items, log.times, vectors):
        digest = zlib.crc32(np.ascontiguousarray(part).tobytes(), digest)
    return f"{config} {digest} {start.revision if start else ''}"


Batch = tuple[Ints, Ints]
"""See `models.sequences.windows`."""


class _Fit:
    """One run: steps, validations, and the state that is saved at each of them."""

    def __init__(
        self,
        network: BlockDiffusionNetwork,
        corpus: Corpus,
        log: Log,
        asked: Validation,
        config: TrainingConfig,
        unfinished: UnfinishedRun,
    ) -> None:
        self.network = network
        self.corpus = corpus
        self.log = log
        self.asked = asked
        self.config = config
        self.unfinished = unfinished
        matrices = [p for p in network.parameters() if p.ndim > 1]
        others = [p for p in network.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
        self.state = TrainingState()

    def run(self, progress: Callable[[Progress], None]) -> dict[str, Any]:
        """Train to the end of the budget or of patience; the network holds the best weights then."""
        config = self.config
        self.state = state = self.unfinished.load(self.network, self.optimizer) or self.state
        resumed, before = state.step, state.seconds
        began = time.monotonic()
        self.network.train()
        cap_s = math.inf if config.minutes is None else 60.0 * config.minutes
        share = 0.0
        for batch in self._batches():
            state.seconds = before + time.monotonic() - began
            share = max(state.step / config.steps, state.seconds / cap_s)
            if share >= 1.0 or (config.patience and state.worse >= config.patience):
                break
            self._step(batch, share)
            progress(Progress(min(1.0, share), state.step, state.loss, max(0.0, state.best_score)))
            if config.validate_every and state.step % config.validate_every == 0:
                self._validate()
                self.unfinished.save(state, self.network, self.optimizer)
        self._validate()
        if state.best_weights is not None:
            self.network.load_state_dict(state.best_weights)
        self.network.eval()
        progress(Progress(1.0, state.step, state.loss, max(0.0, state.best_score)))
        return {
            "steps": state.step,
            "best_step": state.best_step,
            "stopped_early": bool(share < 1.0),
            "resumed_at": resumed,
            "train_seconds": round(before + time.monotonic() - began, 2),
            "train_loss": round(state.loss, 4),
        }

    def _step(self, batch: Batch, share: float) -> None:
        config, state, device = self.config, self.state, self.corpus.vectors.device
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * min(share / config.warmup + 0.01, 1.0 - share, 1.0)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            rows, lengths = (torch.from_numpy(part).to(device) for part in batch)
            dense, masked = losses(self.network, self.corpus, rows, lengths, config.loss)
        self.optimizer.zero_grad(set_to_none=True)
        (dense + config.masked_weight * masked).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        loss = dense.item()
        state.loss = loss if state.step == 0 else 0.98 * state.loss + 0.02 * loss
        state.step += 1
        state.batch += 1

    def _validate(self) -> None:
        """Ask, and remember the weights if they are the best yet; without questions the newest are the best."""
        state = self.state
        if state.best_step == state.step and state.best_weights is not None:
            return
        asked = bool(self.asked.every)
        self.network.eval()
        scorer = network_scorer(self.network, self.corpus.vectors, distinct=self.config.distinct)
        score = self.asked.ndcg(scorer) if asked else state.step
        self.network.train()
        if score >= state.best_score:  # of equals the newest: its slots have learned longer
            state.best_score, state.best_step, state.worse = score, state.step, 0
            state.best_weights = copy.deepcopy(self.network.state_dict())
        else:
            state.worse += 1

    def _batches(self) -> Iterator[Batch]:
        """Batches without end, from where the run stands; ties are shuffled anew in each epoch."""
        config, state = self.config, self.state
        while True:
            rng = np.random.default_rng([config.seed, 2, state.epoch])
            epoch = windows(sequences(self.log, rng, distinct=config.distinct), config.window, config.batch, rng)
            some = False
            for number, batch in enumerate(epoch):
                some = True
                if number >= state.batch:
                    yield batch
            if not some:
                raise TrainingError("no user has two different items before the validation split")
            state.epoch, state.batch = state.epoch + 1, 0


@torch.inference_mode()
def _calibrate_cold_bias(network: BlockDiffusionNetwork, vectors: Tensor, log: Log, config: TrainingConfig) -> None:
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
