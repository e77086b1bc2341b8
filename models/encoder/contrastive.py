"""Trains the contrastive head: a linear map, begun at PCA, in which items that are engaged with together stand close.

Owns the loss, the schedule and when to stop. Must not know where events, texts or vectors come from. InfoNCE (van den
Oord 2018) with in-batch negatives corrected for how often each is drawn (logQ, Yi et al. 2019). Same input, seed and
thread count: same map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.encoder.aligner import LinearAligner, Vectors
from models.encoder.pairs import NothingToLearn, Pairs
from models.reasoner.sequences import Ints

NEAREST = 50
"""Hard negatives are drawn from this many nearest texts that were never engaged with together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """Size, loss and budget of the head. The defaults won on a validation of cold items; see `docs/design/aligner.md`.

    `pull` holds the map to its PCA start: few thousand items cannot fill 384 x 128 numbers. `same` is the share of
    positives that are the anchor's own other text, so that the knowledge tier stays near the text tier. `hard` adds
    that many hard negatives per anchor.
    """

    dims: int = 128
    steps: int = 1_500
    check_every: int = 100
    patience: int = 5
    batch: int = 256
    learning_rate: float = 1e-3
    temperature: float = 0.07
    dropout: float = 0.2
    pull: float = 1e-3
    same: float = 0.2
    hard: int = 0
    anchor_power: float = 0.5
    damping: float = 10.0
    least_count: int = 2
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """What an item says, encoded: `text` (N, dims_in) for all, `knowledge` (N, dims_in) where `known` (N,) is true."""

    text: Vectors
    knowledge: Vectors
    known: NDArray[np.bool_]

    @classmethod
    def alone(cls, text: Vectors) -> Texts:
        """No item has knowledge."""
        return cls(text, text, np.zeros(len(text), dtype=np.bool_))

    def take(self, rows: Ints) -> Texts:
        """The rows given, in their order."""
        return Texts(self.text[rows], self.knowledge[rows], self.known[rows])

    def every(self) -> Vectors:
        """All vectors there are, text first (N + K, dims_in)."""
        return np.concatenate([self.text, self.knowledge[self.known]])

    def best(self) -> Vectors:
        """Each item's knowledge where it has some, else its text (N, dims_in)."""
        return np.where(self.known[:, None], self.knowledge, self.text)


@dataclass(frozen=True, slots=True)
class AlignerProgress:
    """Where training stands: steps done, of how many, and the last validation score (NaN where there is none)."""

    step: int
    steps: int
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class AlignerFit:
    """A trained map, the step it is of, and the validation score at each check (step 0 is PCA)."""

    aligner: LinearAligner
    step: int
    scores: tuple[float, ...]


def train_head(
    texts: Texts,
    pairs: Pairs,
    config: HeadConfig,
    *,
    score: Callable[[LinearAligner], float] | None = None,
    progress: Callable[[AlignerProgress], None] = lambda _: None,
) -> AlignerFit:
    """Fit the head to the pairs of rows of `texts`.

    With `score` (higher is better) training stops after `patience` checks without a new best, and the best map wins,
    PCA among them; without it the map after all steps is taken. Raises `NothingToLearn` where no pair is frequent.
    """
    pairs = pairs.where(pairs.counts >= config.least_count)
    if not len(pairs):
        raise NothingToLearn(
            f"no two items were engaged with together {config.least_count} times: nothing to learn from"
        )
    head = _Head(LinearAligner.fit_pca(texts.every(), config.dims))
    draw = _Draw(texts, pairs, config)
    optimizer = torch.optim.Adam([head.matrix], lr=config.learning_rate)
    best, best_step, scores = head.aligner(config, 0), 0, []
    for step in range(config.steps + 1):
        if score is not None and step % config.check_every == 0:
            scores.append(score(head.aligner(config, step)))
            if scores[-1] > max(scores[:-1], default=-np.inf):
                best, best_step = head.aligner(config, step), step
            elif step - best_step >= config.patience * config.check_every:
                break
            progress(AlignerProgress(step, config.steps, scores[-1]))
        if step < config.steps:
            loss = draw.loss(head, config)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    if score is None:
        best, best_step = head.aligner(config, config.steps), config.steps
        progress(AlignerProgress(config.steps, config.steps, float("nan")))
    return AlignerFit(best, best_step, tuple(scores))


class _Head:
    """The map being learned: a matrix that began at PCA's."""

    def __init__(self, start: LinearAligner) -> None:
        self.mean = torch.from_numpy(start.mean)
        self.start = torch.from_numpy(start.matrix.copy())
        self.matrix = self.start.clone().requires_grad_(True)

    def __call__(self, vectors: Tensor, keep: Tensor | None = None) -> Tensor:
        """Unit vectors (..., dims) of encoder vectors (..., dims_in); `keep` zeroes some of their components."""
        centered = vectors - self.mean
        if keep is not None:
            centered = centered * keep
        return functional.normalize(centered @ self.matrix, dim=-1)

    def aligner(self, config: HeadConfig, step: int) -> LinearAligner:
        about: dict[str, Any] = {"found_by": "contrast" if step else "pca", "step": step, "config": asdict(config)}
        return LinearAligner(self.matrix.detach().numpy().copy(), self.mean.numpy(), about)


class _Draw:
    """Draws batches and gives their loss; all randomness comes from one generator, made from the seed."""

    def __init__(self, texts: Texts, pairs: Pairs, config: HeadConfig) -> None:
        self._rng = np.random.default_rng(config.seed)
        self._generator = torch.Generator().manual_seed(config.seed)
        self._texts = texts
        self._pairs = pairs
        self._starts = pairs.starts()
        rows = len(pairs.totals)
        weights = pairs.lift(config.damping)
        self._cumulative = np.concatenate([[0.0], np.cumsum(weights)])
        self._anchors = np.flatnonzero(np.diff(self._starts) > 0)
        chance = pairs.totals[self._anchors] ** config.anchor_power
        self._chance = chance / chance.sum()
        of_row = self._cumulative[self._starts[1:]] - self._cumulative[self._starts[:-1]]  # (N,) weight per anchor
        as_anchor = np.zeros(rows)
        as_anchor[self._anchors] = self._chance
        drawn = np.bincount(pairs.right, weights * (as_anchor / np.maximum(of_row, 1e-12))[pairs.left], rows)
        self._log_q = torch.from_numpy(np.log(np.maximum(drawn, 1e-9))).float()
        self._codes = pairs.left * rows + pairs.right  # sorted, as the pairs are
        self._rows = rows
        self._nearest = _never_together(texts.text, self._codes) if config.hard else None

    def loss(self, head: _Head, config: HeadConfig) -> Tensor:
        """InfoNCE of one batch, and the pull to the start."""
        anchors = self._rng.choice(self._anchors, config.batch, p=self._chance)
        positives = self._partners(anchors)
        same = self._texts.known[anchors] & (self._rng.random(config.batch) < config.same)
        positives = np.where(same, anchors, positives)
        knowing = self._rng.random(config.batch) < 0.5
        left = head(self._view(anchors, knowing), self._keep(config, head))
        right = head(self._view(positives, np.where(same, ~knowing, self._rng.random(config.batch) < 0.5)))
        scores = left @ right.T / config.temperature - self._log_q[positives]  # (B, B)
        scores = scores.masked_fill(self._met(anchors, positives), -torch.inf)
        if self._nearest is not None:
            hard = self._nearest[anchors][:, self._rng.permutation(NEAREST)[: config.hard]]  # (B, hard)
            other = head(torch.from_numpy(self._texts.text[np.maximum(hard, 0)]))
            close = torch.einsum("bd,bhd->bh", left, other) / config.temperature - self._log_q[np.maximum(hard, 0)]
            scores = torch.cat([scores, close.masked_fill(torch.from_numpy(hard < 0), -torch.inf)], 1)
        contrast = functional.cross_entropy(scores, torch.arange(config.batch))
        return contrast + config.pull * (head.matrix - head.start).square().sum()

    def _partners(self, anchors: Ints) -> Ints:
        """One partner of each anchor, drawn by damped lift."""
        low, high = self._cumulative[self._starts[anchors]], self._cumulative[self._starts[anchors + 1]]
        at = np.searchsorted(self._cumulative, low + (high - low) * self._rng.random(len(anchors)), side="right") - 1
        at = np.clip(at, self._starts[anchors], self._starts[anchors + 1] - 1)
        partners: Ints = self._pairs.right[at]
        return partners

    def _view(self, rows: Ints, knowing: NDArray[np.bool_]) -> Tensor:
        """Vectors of `rows`: their knowledge where asked and there, else their text."""
        use = (knowing & self._texts.known[rows])[:, None]
        return torch.from_numpy(np.where(use, self._texts.knowledge[rows], self._texts.text[rows]))

    def _keep(self, config: HeadConfig, head: _Head) -> Tensor | None:
        if not config.dropout:
            return None
        shape = (config.batch, len(head.mean))
        return (torch.rand(shape, generator=self._generator) >= config.dropout).float() / (1 - config.dropout)

    def _met(self, anchors: Ints, positives: Ints) -> Tensor:
        """(B, B): which columns are no negatives, being the anchor itself, its positive or another item it met."""
        codes = anchors[:, None] * self._rows + positives[None]
        at = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        met = (self._codes[at] == codes) | (anchors[:, None] == positives[None]) | (positives[:, None] == positives)
        np.fill_diagonal(met, False)
        return torch.from_numpy(met)


def _never_together(text: Vectors, codes: Ints, block: int = 512) -> Ints:
    """The nearest texts of each row that it never met (N, NEAREST), -1 where there are fewer."""
    rows = len(text)
    found = np.full((rows, NEAREST), -1, dtype=np.int64)
    for begin in range(0, rows, block):
        mine = np.arange(begin, min(begin + block, rows))
        scores = text[mine] @ text.T
        scores[np.arange(len(mine)), mine] = -np.inf
        first, last = np.searchsorted(codes, [mine[0] * rows, (mine[-1] + 1) * rows])
        left, right = np.divmod(codes[first:last], rows)
        scores[left - begin, right] = -np.inf
        width = min(NEAREST, rows)
        best = np.argpartition(-scores, width - 1, axis=1)[:, :width]
        kept = np.take_along_axis(scores, best, axis=1) > -np.inf
        found[mine, :width] = np.where(kept, best, -1)
    return found
