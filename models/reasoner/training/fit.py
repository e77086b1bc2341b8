"""The training loop of the block-diffusion network, from a batch of windows to the best weights.

Owns masking, losses, the optimizer and its schedule, early stopping. Must not know where events come from nor what
becomes of the weights. Notable choices:
- one pass trains both heads: dense next-item cross-entropy on clean history, 1/t-weighted masked cross-entropy on noisy
  blocks (the bound of masked diffusion, LLaDA, arXiv 2502.09992; blocks as in BD3-LM, arXiv 2503.09573);
- the softmax over many items is sampled and corrected for it, so that the scores that minimize it stay the same;
- item ids are dropped at random, so that an item is also known by its knowledge alone: new items need no retraining;
- validation decides when to stop and which weights are kept; each validation saves what a resumed run needs.
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
from torch import Tensor
from torch.nn import functional

from models.interactions import InteractionLog, Ints
from models.reasoner.network import BlockDiffusionNetwork
from models.reasoner.sequences import sequences, windows
from models.reasoner.training.config import TrainingConfig, TrainingError
from models.reasoner.training.unfinished_run import TrainingState, UnfinishedRun
from models.reasoner.training.validation import Validation, network_scorer

LEAST_MASKED = 0.1
"""Smallest share of masks in a block: 1/t is unbounded below, and one lonely mask says little."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What does not change from batch to batch: item vectors (N, dims) and each item's share of the events (N,)."""

    vectors: Tensor
    unigram: Tensor


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Progress: share done in [0, 1], steps, the running next-item loss in nats, the best NDCG@10 so far."""

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
        log: InteractionLog,
        validation: Validation,
        config: TrainingConfig,
        unfinished: UnfinishedRun,
    ) -> None:
        self.network = network
        self.corpus = corpus
        self.log = log
        self.validation = validation
        self.config = config
        self.unfinished = unfinished
        # Decay pulls matrices alone: on biases and norms it would only fight the popularity they stand for.
        matrices = [p for p in network.parameters() if p.ndim > 1]
        others = [p for p in network.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
        self.state = TrainingState()

    def run(self, progress: Callable[[TrainingProgress], None]) -> dict[str, Any]:
        """Train until budget or patience runs out; the network then holds the best weights."""
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
        return max(0.0, self.state.best_score) if self.validation.every else 0.0

    def _step(self, batch: Batch, share: float) -> None:
        config, state, device = self.config, self.state, self.corpus.vectors.device
        # By share of the budget, not by step: a run that is capped in minutes still warms up and decays to 0.
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * min(share / config.warmup + 0.01, 1.0 - share, 1.0)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            rows, lengths = (torch.from_numpy(part).to(device) for part in batch)
            dense, masked = losses(self.network, self.corpus, rows, lengths, config)
        self.optimizer.zero_grad(set_to_none=True)
        (dense + config.masked_weight * masked).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        loss = dense.item()
        state.loss = loss if state.step == 0 else 0.98 * state.loss + 0.02 * loss
        state.step += 1
        state.batch += 1

    def _validate(self) -> None:
        """Validate, and keep the weights if they are the best yet; without questions the newest are the best."""
        state = self.state
        if state.best_step == state.step and state.best_weights is not None:
            return  # the loop ended right after a validation
        self.network.eval()
        scorer = network_scorer(self.network, self.corpus.vectors, distinct=self.config.distinct)
        score = self.validation.ndcg(scorer) if self.validation.every else state.step
        self.network.train()
        if score >= state.best_score:  # of equals the newest: its slots have learned longer
            state.best_score, state.best_step, state.worse = score, state.step, 0
            state.best_weights = copy.deepcopy(self.network.state_dict())
        else:
            state.worse += 1

    def _batches(self) -> Iterator[Batch]:
        """Batches without end, from where the run was interrupted; each epoch shuffles ties again."""
        config, state = self.config, self.state
        while True:
            # A generator per epoch: a resumed run draws what the interrupted one would have drawn.
            rng = np.random.default_rng([config.seed, 2, state.epoch])
            epoch = windows(sequences(self.log, rng, distinct=config.distinct), config.window, config.batch, rng)
            empty = True
            for number, batch in enumerate(epoch):
                empty = False
                if number >= state.batch:
                    yield batch
            if empty:
                raise TrainingError("no user has two different items before the validation split")
            state.epoch, state.batch = state.epoch + 1, 0


def losses(
    network: BlockDiffusionNetwork, corpus: Corpus, rows: Tensor, lengths: Tensor, config: TrainingConfig
) -> tuple[Tensor, Tensor]:
    """Dense next-item and 1/t-weighted masked cross-entropy of windows: `rows` (B, T) and their `lengths` (B,)."""
    batch, length = rows.shape
    positions = torch.arange(length, device=rows.device)
    inside = positions < lengths[:, None]  # (B, T)
    blocks = -(-length // config.block)
    # Each block has a mask rate t of its own: the network learns to fill blocks of any openness.
    share = torch.empty(batch, blocks, device=rows.device).uniform_(LEAST_MASKED, 1.0)
    share = share.repeat_interleave(config.block, 1)[:, :length]
    hidden = (torch.rand(batch, length, device=rows.device) < share) & inside
    # An id is dropped on the input and on the output: the item is then read, and predicted, as a new one.
    embeddings, bias = network.embed(corpus.vectors, kept_ids(corpus.vectors, config.id_dropout))
    clean = functional.embedding(rows, embeddings)  # (B, T, width)
    noisy = torch.where(hidden[..., None], network.mask, clean)
    dense, shifted = network(clean, noisy, lengths, config.block)
    wanted = hidden & (positions % config.block != 0)  # a block's first slot is the dense loss already
    # One softmax for both losses: their targets serve each other as negatives.
    states = torch.cat([dense[inside], shifted[wanted]])  # (P, width)
    targets = torch.cat([rows[inside], rows[wanted]])
    split = int(inside.sum())
    negatives = len(embeddings) if len(embeddings) <= config.full_softmax_items else config.negatives
    each = sampled_cross_entropy(states, targets, embeddings, bias, corpus.unigram, negatives)
    weighted = (each[split:] / share[wanted]).sum() / split
    return each[:split].mean(), weighted


def kept_ids(vectors: Tensor, dropout: float) -> Tensor:
    """Id row of each of the items (N,), -1 where it is dropped."""
    rows = torch.arange(len(vectors), device=vectors.device)
    return torch.where(torch.rand(len(vectors), device=vectors.device) < dropout, -1, rows)


def sampled_cross_entropy(
    states: Tensor, targets: Tensor, embeddings: Tensor, bias: Tensor, unigram: Tensor, negatives: int
) -> Tensor:
    """Cross-entropy (P,) over the batch's own targets and `negatives` uniform items, corrected for their sampling.

    With at least as many negatives as items this is the full softmax. At 10 thousand items it makes a step three times
    cheaper.
    """
    items = len(embeddings)
    if negatives >= items:
        return functional.cross_entropy(functional.linear(states, embeddings, bias), targets, reduction="none")
    candidates = torch.unique(torch.cat([targets, torch.randint(items, (negatives,), device=targets.device)]))
    column = torch.zeros(items, dtype=torch.long, device=targets.device)
    column[candidates] = torch.arange(len(candidates), device=targets.device)
    missed = negatives * math.log1p(-1 / items) + len(targets) * torch.log1p(-unigram[candidates].clamp(max=0.99))
    chance = -torch.expm1(missed)
    # Less log q, q being an item's chance to be a candidate: the loss differs, the scores that minimize it do not.
    logits = functional.linear(states, embeddings[candidates], bias[candidates] - chance.log())
    return functional.cross_entropy(logits, column[targets], reduction="none")
