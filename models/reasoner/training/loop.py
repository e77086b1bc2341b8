"""One training run of the network: steps, validations, early stopping, and the state from which it can go on.

Owns the optimizer and its schedule. Must not know where events come from nor what becomes of the weights.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.reasoner.network import BlockDiffusionNetwork
from models.reasoner.sequences import Ints, TrainingLog, sequences, windows
from models.reasoner.training.config import TrainingConfig, TrainingError
from models.reasoner.training.loss import Corpus, losses
from models.reasoner.training.state import TrainingState, UnfinishedRun
from models.reasoner.training.validation import Validation, network_scorer


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where training stands: share done in [0, 1], steps, the running next-item loss in nats, the best NDCG@10 yet."""

    share: float
    step: int
    loss: float
    best: float = 0.0


Batch = tuple[Ints, Ints]
"""See `models.reasoner.sequences.windows`."""


class TrainingFit:
    """One run: steps, validations, and the state that is saved at each of them."""

    def __init__(
        self,
        network: BlockDiffusionNetwork,
        corpus: Corpus,
        log: TrainingLog,
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

    def run(self, progress: Callable[[TrainingProgress], None]) -> dict[str, Any]:
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
            progress(TrainingProgress(min(1.0, share), state.step, state.loss, self._best))
            if config.validate_every and state.step % config.validate_every == 0:
                self._validate()
                self.unfinished.save(state, self.network, self.optimizer)
        self._validate()
        if state.best_weights is not None:
            self.network.load_state_dict(state.best_weights)
        self.network.eval()
        progress(TrainingProgress(1.0, state.step, state.loss, self._best))
        return {
            "steps": state.step,
            "best_step": state.best_step,
            "stopped_early": bool(share < 1.0),
            "resumed_at": resumed,
            "train_seconds": round(before + time.monotonic() - began, 2),
            "train_loss": round(state.loss, 4),
        }

    @property
    def _best(self) -> float:
        return max(0.0, self.state.best_score) if self.asked.every else 0.0

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
