"""The default reasoner: block diffusion over the live catalogue.

Owns the path from histories to behaviours: which events are read, item tables in step with the live catalogue,
micro-batches, the deadline. The network and the sampler do the rest.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.block_diffusion import MASK_ROW, BlockDiffusionNetwork, Prefix
from models.catalogue import Catalogue, Rows
from models.checkpoint import Checkpoint, load
from models.reasoner import Inference, UserHistory
from models.sampler import Block, Plan, denoise
from models.sequences import first_events
from schemas.records import InferredBehavior, UserTier

SCORES_AT_ONCE = 8_000_000
"""Logits held at once (32 MB): larger micro-batches leave the cache and are slower, not faster."""


class BlockDiffusionReasoner:
    """Infers by denoising; new catalogue items join by their vector, changed vectors count from the next call.

    `repeats=True` lets it infer items the user already has. `clock` gives seconds and serves the deadline. Calls from
    several threads run one after the other.
    """

    tier = UserTier.DIFFUSION

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        repeats: bool = False,
        temperature: float = 0.0,
        max_history: int = 200,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = f"block-diffusion@{checkpoint.revision or 'unsaved'}"
        self.checkpoint = checkpoint
        self._network = checkpoint.network.eval()
        self._repeats = repeats
        self._distinct = bool(checkpoint.settings.get("distinct", True))
        self._temperature = temperature
        self._max_history = max_history
        self._clock = clock
        self._lock = threading.Lock()
        trained = checkpoint.item_ids[: checkpoint.network.config.items]
        self._trained = {item_id: row for row, item_id in enumerate(trained)}
        self._table: ItemTable | None = None

    @classmethod
    def load(cls, folder: Path, *, repeats: bool = False, temperature: float = 0.0) -> BlockDiffusionReasoner:
        """A reasoner from a checkpoint folder; raises `models.checkpoint.CheckpointError`."""
        return cls(load(folder), repeats=repeats, temperature=temperature)

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
        plan = Plan(slots, steps, self._temperature)
        with self._lock:
            table = self._current_table(catalogue)
            read = [known_rows(history, catalogue, distinct=self._distinct) for history in histories]
            # Users of like length together: less padding. Their answers do not depend on it.
            order = sorted((i for i in range(len(read)) if len(read[i])), key=lambda i: len(read[i]))
            answers = [Inference()] * len(histories)
            size = max(1, SCORES_AT_ONCE // (slots * max(1, table.size)))
            for begin in range(0, len(order), size):
                batch = order[begin : begin + size]
                seeds = [zlib.crc32(histories[i].user_id.encode(), seed & 0xFFFFFFFF) for i in batch]
                block = self._denoise(table, [read[i] for i in batch], seeds, plan, end)
                for i, inference in zip(batch, inferences(block, catalogue), strict=True):
                    answers[i] = inference
            return answers

    def _denoise(
        self, table: ItemTable, read: Sequence[Rows], seeds: Sequence[int], plan: Plan, end: float | None
    ) -> Block:
        lengths = torch.tensor([min(len(rows), self._max_history) for rows in read])
        history = torch.zeros(len(read), int(lengths.max()), dtype=torch.long)
        for user, rows in enumerate(read):
            history[user, : lengths[user]] = torch.from_numpy(rows[-self._max_history :])
        prefix: Prefix | None = None

        def expired() -> bool:
            return end is not None and self._clock() >= end

        def denoiser(slots: Tensor, open_: Tensor) -> Tensor:
            nonlocal prefix
            if prefix is None:  # only now, so that a deadline already past costs nothing
                prefix = self._network.prefix(functional.embedding(history, table.embeddings), lengths)
            masked = (slots == MASK_ROW)[..., None]
            inputs = torch.where(masked, self._network.mask, table.embeddings[slots.clamp(min=0)])
            states = self._network.block(prefix, inputs)
            wanted = states.gather(1, open_[..., None].expand(-1, -1, states.shape[-1]))
            return self._network.scores(wanted, table.embeddings[: table.size], table.bias[: table.size])

        users = np.repeat(np.arange(len(read)), [len(rows) for rows in read])
        seen = np.concatenate(read)
        if self._repeats:
            users, seen = users[:0], seen[:0]
        forbidden = (torch.from_numpy(users), torch.from_numpy(seen))
        return denoise(denoiser, forbidden, seeds, plan, expired=expired)

    def _current_table(self, catalogue: Catalogue) -> ItemTable:
        if self._table is None or self._table.catalogue is not catalogue:
            self._table = ItemTable(self._network, self._trained, catalogue)
        self._table.refresh()
        return self._table


class ItemTable:
    """Embeddings (capacity, width) and biases of every catalogue row, brought up to date by what changed."""

    def __init__(self, network: BlockDiffusionNetwork, trained: dict[str, int], catalogue: Catalogue) -> None:
        if catalogue.dims != network.config.knowledge_dims:
            raise ValueError(
                f"the catalogue has {catalogue.dims} dims, the checkpoint wants {network.config.knowledge_dims}"
            )
        self.catalogue = catalogue
        self.size = 0
        self.embeddings = torch.zeros(0, network.config.width)
        self.bias = torch.zeros(0)
        self._network = network
        self._trained = trained
        self._revision = 0

    def refresh(self) -> None:
        """Embed the rows written since the last call; removed items can no longer be chosen."""
        if self.catalogue.revision == self._revision:
            return
        changes = self.catalogue.changes(self._revision)
        if changes.size > len(self.embeddings):
            extra = max(changes.size - len(self.embeddings), len(self.embeddings))
            self.embeddings = torch.cat([self.embeddings, torch.zeros(extra, self.embeddings.shape[1])])
            self.bias = torch.cat([self.bias, torch.full((extra,), -torch.inf)])
        ids = self.catalogue.item_ids
        trained = torch.tensor([self._trained.get(ids[row], -1) for row in changes.rows], dtype=torch.long)
        embeddings, bias = self._network.embed(torch.from_numpy(changes.vectors), trained)
        rows = torch.from_numpy(changes.rows)
        self.embeddings[rows] = embeddings
        self.bias[rows] = torch.where(torch.from_numpy(changes.alive), bias, -torch.inf)
        self.size, self._revision = changes.size, changes.revision


def known_rows(history: UserHistory, catalogue: Catalogue, *, distinct: bool) -> Rows:
    """Known rows of a history; `distinct` keeps first events only, where the network was trained to read those."""
    rows = catalogue.rows(history.item_ids)
    rows = rows[rows >= 0]
    return first_events(rows) if distinct else rows


def inferences(block: Block, catalogue: Catalogue) -> list[Inference]:
    """Behaviours of each user of a block, most confident first."""
    answers = []
    ids = catalogue.item_ids
    confidences, order = block.confidences.sort(dim=1, descending=True, stable=True)
    for rows, values in zip(block.rows.gather(1, order).tolist(), confidences.tolist(), strict=True):
        behaviors = tuple(
            InferredBehavior(ids[row], min(1.0, value)) for row, value in zip(rows, values, strict=True) if row >= 0
        )
        answers.append(Inference(behaviors, block.degraded))
    return answers
