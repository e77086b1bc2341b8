"""The default reasoner: block diffusion over the live catalogue.

Owns the path from histories to behaviors: which events are read, item tables in step with the live catalogue,
micro-batches, the deadline. The network and the sampler do the rest.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from freshet.records import InferredBehavior, UserTier
from models.reasoner.catalogue import Catalogue, Rows
from models.reasoner.checkpoint import Checkpoint, load
from models.reasoner.cooccurrence_table import SPAN, NeighborTable, Offset
from models.reasoner.denoiser import BlockDenoiser, Reading, Scratch
from models.reasoner.infill import layout
from models.reasoner.network import BlockDiffusionNetwork
from models.reasoner.reasoner import Inference, ReasonerSources, UserHistory
from models.reasoner.sampler import SampledBlock, SlotPlan, denoise
from models.reasoner.sequences import Ints, first_places, padded
from models.reasoner.shortlist import CandidateIndex, Shortlist

SCORES_AT_ONCE = 8_000_000
"""Logits held at once (32 MB): larger micro-batches leave the cache and are slower, not faster."""
FULL_SCORING_ITEMS = 20_000
"""Larger catalogues are scored within each user's shortlist (docs/reports/catalogue-scale.md)."""
SHORTLIST = 256
"""Items in it, besides those the user has."""
NEAR = 64
"""Neighbors of the user's items in it, besides."""

DEFAULT_PLAN = SlotPlan()


class BlockDiffusionReasoner:
    """Infers by denoising; new catalogue items join by their vector, changed vectors count from the next call.

    `repeats=True` lets it infer items the user already has. `plan` brings temperature and schedule. `between` of the
    slots are placed between the last `tail` behaviors, where the log has gaps in time. `clock` gives seconds and
    serves the deadline. Calls from several threads run one after the other.
    """

    tier = UserTier.DIFFUSION

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        repeats: bool = False,
        plan: SlotPlan = DEFAULT_PLAN,
        between: int = 0,
        tail: int = 8,
        max_history: int = 200,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = f"block-diffusion@{checkpoint.revision or 'unsaved'}"
        self.checkpoint = checkpoint
        self._network = checkpoint.network.eval()
        self._repeats = repeats
        self._distinct = bool(checkpoint.settings.get("distinct", True))
        self._plan = plan
        self._between = between
        self._tail = tail
        self._max_history = max_history
        self._clock = clock
        self._lock = threading.Lock()
        self._scratch = Scratch()
        trained = checkpoint.item_ids[: checkpoint.network.config.items]
        self._trained = {item_id: row for row, item_id in enumerate(trained)}
        self._table: ItemTable | None = None

    @classmethod
    def load(cls, folder: Path, **options: Any) -> BlockDiffusionReasoner:
        """A reasoner from a checkpoint folder; raises `models.reasoner.checkpoint.CheckpointError`."""
        return cls(load(folder), **options)

    @torch.inference_mode()
    def infer(
        self,
        histories: Sequence[UserHistory],
        catalogue: Catalogue,
        *,
        slots: int,
        steps: int,
        deadline_s: float | None = None,
        seed: int = 0,
    ) -> list[Inference]:
        """See `BehaviorReasoner.infer`."""
        end = None if deadline_s is None else self._clock() + deadline_s
        plan = replace(self._plan, slots=slots, steps=steps)
        with self._lock:
            table = self._current_table(catalogue)
            read = [known_events(history, catalogue, distinct=self._distinct) for history in histories]
            # Users of like length together: less padding. Their answers do not depend on it.
            order = sorted((i for i in range(len(read)) if len(read[i].rows)), key=lambda i: len(read[i].rows))
            answers = [Inference()] * len(histories)
            scored = table.size if table.index is None else SHORTLIST
            size = max(1, SCORES_AT_ONCE // (slots * max(1, scored)))
            for begin in range(0, len(order), size):
                batch = order[begin : begin + size]
                seeds = [zlib.crc32(histories[i].user_id.encode(), seed & 0xFFFFFFFF) for i in batch]
                block = self._denoise(table, [read[i] for i in batch], seeds, plan, end)
                for i, inference in zip(batch, inferences(block, catalogue), strict=True):
                    answers[i] = inference
            return answers

    def _denoise(
        self, table: ItemTable, read: Sequence[Known], seeds: Sequence[int], plan: SlotPlan, end: float | None
    ) -> SampledBlock:
        layouts = [layout(known.times, plan.slots, min(self._between, plan.slots), self._tail) for known in read]
        rows = [known.rows for known in read]
        reading = Reading.of(rows, layouts, self._max_history)
        users, seen = np.repeat(np.arange(len(read)), [len(one) for one in rows]), np.concatenate(rows)
        if self._repeats:
            users, seen = users[:0], seen[:0]
        forbidden = (torch.from_numpy(users), torch.from_numpy(seen))
        offset, listed = table.offset(rows), None
        if table.index is not None:
            listed = shortlists(table.index, forbidden, offset)
            forbidden = (forbidden[0][:0], forbidden[1][:0])
        everything = table.embeddings[: table.size], table.bias[: table.size]
        denoiser = BlockDenoiser(self._network, *everything, reading, offset, listed, self._scratch)

        def expired() -> bool:
            return end is not None and self._clock() >= end

        block = denoise(denoiser, forbidden, seeds, plan, expired=expired)
        return replace(block, rows=denoiser.rows_of(block.rows))

    def _current_table(self, catalogue: Catalogue) -> ItemTable:
        if self._table is None or self._table.catalogue is not catalogue:
            self._table = ItemTable(self._network, self._trained, catalogue, self.checkpoint.neighbors)
        self._table.refresh()
        return self._table


def from_sources(sources: ReasonerSources) -> BlockDiffusionReasoner:
    """The reasoner as the settings want it."""
    settings = sources.settings
    assert sources.checkpoint is not None
    plan = SlotPlan(
        temperature=settings.temperature,
        schedule=settings.schedule,
        bound=settings.schedule_bound,
    )
    return BlockDiffusionReasoner(sources.checkpoint, plan=plan, between=settings.slots_between)


class ItemTable:
    """Embeddings (capacity, width) and biases of every catalogue row, brought up to date by what changed."""

    def __init__(
        self,
        network: BlockDiffusionNetwork,
        trained: dict[str, int],
        catalogue: Catalogue,
        neighbors: NeighborTable | None = None,
    ) -> None:
        if catalogue.dims != network.config.knowledge_dims:
            raise ValueError(
                f"the catalogue has {catalogue.dims} dims, the checkpoint wants {network.config.knowledge_dims}"
            )
        self.catalogue = catalogue
        self.size = 0
        self.embeddings = torch.zeros(0, network.config.width)
        self.bias = torch.zeros(0)
        self.index: CandidateIndex | None = None
        self._network = network
        self._trained = trained
        self._revision = 0
        self._neighbors = neighbors
        # Id rows of the checkpoint and rows of the catalogue, by one another; -1 where there is none.
        self._id_row = torch.zeros(0, dtype=torch.long)
        self._row_of_id = torch.full((network.config.items,), -1)

    def offset(self, histories: Sequence[Rows]) -> Offset | None:
        """What co-occurrence adds to the scores of histories, as catalogue rows; None without a table."""
        if self._neighbors is None:
            return None
        history, lengths = map(torch.from_numpy, padded([rows[-self._neighbors.reach :] for rows in histories]))
        ids, shares = self._neighbors.of(self._id_row[history], lengths)
        rows_ = self._row_of_id[ids]
        return Offset(rows_.clamp(min=0), torch.where(rows_ >= 0, shares, 0.0))

    def refresh(self) -> None:
        """Embed the rows written since the last call; removed items can no longer be chosen."""
        if self.catalogue.revision == self._revision:
            return
        changes = self.catalogue.changes(self._revision)
        if changes.size > len(self.embeddings):
            extra = max(changes.size - len(self.embeddings), len(self.embeddings))
            self.embeddings = torch.cat([self.embeddings, torch.zeros(extra, self.embeddings.shape[1])])
            self.bias = torch.cat([self.bias, torch.full((extra,), -torch.inf)])
            self._id_row = torch.cat([self._id_row, torch.full((extra,), -1)])
        ids = self.catalogue.item_ids
        trained = torch.tensor([self._trained.get(ids[row], -1) for row in changes.rows], dtype=torch.long)
        embeddings, bias = self._network.embed(torch.from_numpy(changes.vectors), trained)
        rows = torch.from_numpy(changes.rows)
        self.embeddings[rows] = embeddings
        self._id_row[rows] = trained
        self._row_of_id[trained[trained >= 0]] = rows[trained >= 0]
        bias = torch.where(torch.from_numpy(changes.alive), bias, -torch.inf)
        self.bias[rows] = bias
        self.size, self._revision = changes.size, changes.revision
        if self.index is not None:
            self.index.update(rows, embeddings, bias)
        elif self.size > FULL_SCORING_ITEMS:
            self.index = CandidateIndex(self._network.config.width)
            self.index.update(torch.arange(self.size), self.embeddings[: self.size], self.bias[: self.size])


def shortlists(
    index: CandidateIndex, forbidden: tuple[Tensor, Tensor], offset: Offset | None
) -> Callable[[Tensor], Shortlist]:
    """From states (B, width) to shortlists of `index` without each user's forbidden rows.

    The items with the largest `offset` are in them whatever the network says.
    """
    users, struck = forbidden

    def make(states: Tensor) -> Shortlist:
        listed = index.shortlist(states, SHORTLIST, forbidden)
        if offset is None:
            return listed
        near, of_user = offset.best(NEAR), torch.arange(len(states))[:, None] * SPAN
        besides = torch.isin(near + of_user, torch.cat([(listed.rows + of_user).flatten(), users * SPAN + struck]))
        return index.listing(torch.cat([listed.rows, torch.where(besides, -1, near)], dim=1), forbidden)

    return make


@dataclass(frozen=True, slots=True)
class Known:
    """What the catalogue knows of a history: item rows (L,) and event times in milliseconds (L,), oldest first."""

    rows: Rows
    times: Ints


def known_events(history: UserHistory, catalogue: Catalogue, *, distinct: bool) -> Known:
    """Events whose items are known; `distinct` keeps first events only, where the network was trained to read those."""
    rows = catalogue.rows(history.item_ids)
    kept = np.flatnonzero(rows >= 0)
    if distinct:
        kept = kept[first_places(rows[kept])]
    times = np.asarray(history.event_times, dtype=np.int64)
    return Known(rows[kept], times[kept] if len(times) else np.zeros(len(kept), dtype=np.int64))


def inferences(block: SampledBlock, catalogue: Catalogue) -> list[Inference]:
    """Behaviors of each user of a block, most confident first."""
    answers = []
    ids = catalogue.item_ids
    confidences, order = block.confidences.sort(dim=1, descending=True, stable=True)
    for rows, values in zip(block.rows.gather(1, order).tolist(), confidences.tolist(), strict=True):
        behaviors = tuple(
            InferredBehavior(ids[row], min(1.0, value)) for row, value in zip(rows, values, strict=True) if row >= 0
        )
        answers.append(Inference(behaviors, block.degraded))
    return answers
