"""Our reasoner as it is judged: trained by `train_reasoner`, asked for next-item scores and for denoised slots.

Owns the way between rows and the reasoner's names. Must not train differently from `freshet train reasoner`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from evaluation.reasoner.measures import Inferred, Scorer, Scores
from evaluation.reasoner.shop import Shop
from evaluation.reasoner.splits import NEXT, Case
from models.reasoner.block_diffusion import DEFAULT_PLAN, BlockDiffusionReasoner, ItemTable
from models.reasoner.checkpoint import Checkpoint, load
from models.reasoner.denoiser import BlockDenoiser, Reading
from models.reasoner.infill import SlotLayout
from models.reasoner.network import MASK_ROW
from models.reasoner.sampler import SlotPlan
from models.reasoner.sequences import TrainingLog, first_events
from models.reasoner.training.train import TrainingConfig, train_reasoner
from store.histories import History

HISTORY = 200
"""Newest items that are read, as in `BlockDiffusionReasoner`."""


class Ours:
    """One trained network over the shop's catalogue; items it was not trained on are known by their vector."""

    def __init__(self, checkpoint: Checkpoint, shop: Shop, plan: SlotPlan = DEFAULT_PLAN, between: int = 0) -> None:
        self.checkpoint = checkpoint
        self._shop = shop
        self._plan = plan
        self._between = between
        self._reasoner = BlockDiffusionReasoner(checkpoint, plan=plan, between=between, max_history=HISTORY)
        trained = checkpoint.item_ids[: checkpoint.network.config.items]
        row_of = {item_id: row for row, item_id in enumerate(trained)}
        with torch.inference_mode():
            self._table = ItemTable(checkpoint.network, row_of, shop.catalogue, checkpoint.neighbors)
            self._table.refresh()

    @property
    def embeddings(self) -> Scores:
        """What the network knows an item by (N, width), L2-normalized."""
        made: Scores = functional.normalize(self._table.embeddings[: self._table.size], dim=1).numpy()
        return made

    def weighed(self, weight: float) -> Ours:
        """The same network, weighing so much beside its neighbors; this one is not to be used any more."""
        self.checkpoint.network.score_weight.fill_(weight)
        return Ours(self.checkpoint, self._shop, self._plan, self._between)

    def network_scores(self, cases: Sequence[Case]) -> Scores:
        """`scores` of the network alone, as if it had no neighbors."""
        return self._scores(cases, neighbors=False)

    def scores(self, cases: Sequence[Case]) -> Scores:
        """Logits (Q, N) of the next item: those of a first slot while all are masked, whatever the steps."""
        return self._scores(cases, neighbors=True)

    @torch.inference_mode()
    def _scores(self, cases: Sequence[Case], *, neighbors: bool) -> Scores:
        distinct = bool(self.checkpoint.settings.get("distinct", True))
        rows = [first_events(case.history) if distinct else case.history for case in cases]
        table, after = self._table, SlotLayout(np.arange(1), np.zeros(0, dtype=np.int64))
        reading = Reading.of(rows, [after] * len(rows), HISTORY)
        known = table.embeddings[: table.size], table.bias[: table.size]
        denoiser = BlockDenoiser(self.checkpoint.network, *known, reading, table.offset(rows) if neighbors else None)
        logits, _ = denoiser(torch.full((len(rows), 1), MASK_ROW), torch.zeros(len(rows), 1, dtype=torch.long))
        scores: Scores = logits[:, 0].numpy()
        return scores

    def infer(self, cases: Sequence[Case], steps: int, *, slots: int = NEXT, seed: int = 0) -> list[Inferred]:
        """The denoised slots of each case, most confident first."""
        ids = self._shop.catalogue.item_ids
        told = [
            History(f"u{case.user}", tuple(ids[row] for row in case.history), (), tuple(case.times.tolist()))
            for case in cases
        ]
        answers = self._reasoner.infer(told, self._shop.catalogue, slots=slots, steps=steps, seed=seed)
        return [
            Inferred(
                self._shop.catalogue.rows([made.item_id for made in answer.behaviors]),
                np.array([made.confidence for made in answer.behaviors], dtype=np.float64),
            )
            for answer in answers
        ]


def train_ours(
    log: TrainingLog,
    shop: Shop,
    config: TrainingConfig,
    *,
    plan: SlotPlan = DEFAULT_PLAN,
    between: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> Ours:
    """Train on a part of the shop's log. Raises `models.reasoner.training.train.TrainingError`."""
    with tempfile.TemporaryDirectory(prefix="freshet-evaluate-") as folder:
        made = train_reasoner(
            shop.columns(log), shop.catalogue, config, Path(folder) / "ours", progress=lambda at: progress(at.share)
        )
        return Ours(load(made), shop, plan, between)


def then_scores(lists: Sequence[Inferred], scorer: Scorer) -> Scorer:
    """Ranks the inferred items first, by confidence, and all others after them by `scorer`.

    For the very cases the lists were made for, in their order and asked once.
    """
    left = iter(lists)

    def ordered(cases: Sequence[Case]) -> Scores:
        scores = scorer(cases)
        for row, _ in zip(scores, cases, strict=True):
            made = next(left)
            row[made.rows] = float(row.max()) + np.arange(len(made.rows), 0, -1)
        return scores

    return ordered
