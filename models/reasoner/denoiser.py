"""The block-diffusion network as a `Denoiser`: prefix cache, observed behaviors inside the block, item scores.

Owns what the network reads and which items are scored: all of them, or each user's candidates. Must not choose items
(`models.reasoner.sampler` does), nor know catalogue or checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.reasoner.cooccurrence_table import Offset
from models.reasoner.infill import SlotLayout
from models.reasoner.network import MASK_ROW, BlockDiffusionNetwork, EncodedPrefix
from models.reasoner.sequences import Ints, padded
from models.reasoner.shortlist import Shortlist


@dataclass(frozen=True, slots=True)
class Reading:
    """What the network reads of B users, rows padded with 0.

    `prefix` (B, L) with `lengths` (B,) · `block` (B, W): observed rows, MASK_ROW at slots and padding · `valid`
    (B, W), false at padding · `slots` (B, S): each slot's position in the block.
    """

    prefix: Tensor
    lengths: Tensor
    block: Tensor
    valid: Tensor
    slots: Tensor

    @classmethod
    def of(cls, histories: Sequence[Ints], layouts: Sequence[SlotLayout], max_history: int) -> Reading:
        """From the item rows of each history, oldest first, and where its slots stand."""
        heads = [rows[: len(rows) - of.observed] for rows, of in zip(histories, layouts, strict=True)]
        prefix, lengths = padded([rows[-max_history:] for rows in heads])
        widths = [len(of.slots) + of.observed for of in layouts]
        block = np.full((len(heads), max(widths)), MASK_ROW)
        valid = np.arange(max(widths)) < np.array(widths)[:, None]
        for user, (rows, of) in enumerate(zip(histories, layouts, strict=True)):
            block[user, of.events] = rows[len(rows) - of.observed :]
        slots = np.stack([of.slots for of in layouts])
        return cls(*map(torch.from_numpy, (prefix, lengths, block, valid, slots)))


class Scratch:
    """Memory that is kept between calls: fresh megabytes cost as much as the product they hold."""

    def __init__(self) -> None:
        self._kept = torch.empty(0)

    def take(self, *shape: int) -> Tensor:
        """A tensor of this shape, of any content; it is the same memory each time."""
        size = math.prod(shape)
        if self._kept.numel() < size:
            self._kept = torch.empty(size)
        return self._kept[:size].view(shape)


class BlockDenoiser:
    """See `models.reasoner.sampler.Denoiser`.

    The prefix is encoded at the first call: an expired deadline costs nothing.
    `embeddings` (N, width) and `bias` (N,) of all items; `offset` is added to the scores of some. With `shortlists`,
    the sampler sees K columns a user instead of N rows: places in the shortlist that is made at the first call;
    `rows_of` turns them into rows. Logits of the last call lie in `scratch` until the next.
    """

    def __init__(
        self,
        network: BlockDiffusionNetwork,
        embeddings: Tensor,
        bias: Tensor,
        reading: Reading,
        offset: Offset | None = None,
        shortlists: Callable[[Tensor], Shortlist] | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        self._network = network
        self._embeddings = embeddings
        self._bias = bias
        self._reading = reading
        self._offset = offset
        self._shortlists = shortlists
        self._scratch = scratch or Scratch()
        self._prefix: EncodedPrefix | None = None
        self._listed: Listed | None = None
        self._offset_of_all: Tensor | None = None

    def __call__(self, slots: Tensor, open_: Tensor) -> tuple[Tensor, Tensor | None]:
        states = self._network.weighed(self._states(slots))  # (B, S, width)
        if self._shortlists is not None and self._listed is None:
            self._listed = Listed.of(self._shortlists(states.mean(1)), self._embeddings, self._bias, self._offset)
        wanted = states.gather(1, open_[..., None].expand(-1, -1, states.shape[-1]))  # (B, m, width)
        if self._listed is not None:
            logits = torch.baddbmm(self._listed.bias[:, None], wanted, self._listed.embeddings.transpose(1, 2))
            if self._listed.offset is not None:
                logits += self._listed.offset[:, None]
            return logits, self._listed.shortlist.rest(wanted)
        logits = self._scratch.take(*wanted.shape[:-1], len(self._embeddings))
        flat = wanted.reshape(-1, wanted.shape[-1])
        torch.addmm(self._bias, flat, self._embeddings.T, out=logits.view(len(flat), -1))
        if self._offset is not None:
            logits += self._dense_offset()[:, None]
        return logits, None

    def _dense_offset(self) -> Tensor:
        if self._offset_of_all is None:
            assert self._offset is not None
            self._offset_of_all = self._offset.dense(len(self._embeddings))
        return self._offset_of_all

    def rows_of(self, columns: Tensor) -> Tensor:
        """Item rows (B, S) of columns or MASK_ROW (B, S)."""
        if self._listed is None:
            return columns
        rows = self._listed.shortlist.rows.gather(1, columns.clamp(min=0))
        return torch.where(columns == MASK_ROW, MASK_ROW, rows)

    def _states(self, slots: Tensor) -> Tensor:
        """The states (B, S, width) that predict the slots, which hold columns or MASK_ROW (B, S)."""
        reading = self._reading
        if self._prefix is None:
            history = functional.embedding(reading.prefix, self._embeddings)
            self._prefix = self._network.prefix(history, reading.lengths)
        block = reading.block.scatter(1, reading.slots, self.rows_of(slots))
        masked = (block == MASK_ROW)[..., None]
        inputs = torch.where(masked, self._network.mask, functional.embedding(block.clamp(min=0), self._embeddings))
        states = self._network.block(self._prefix, inputs, reading.valid)
        return states.gather(1, reading.slots[..., None].expand(-1, -1, states.shape[-1]))


@dataclass(frozen=True, slots=True)
class Listed:
    """Shortlists with what their items score: `embeddings` (B, K, width), `bias` (B, K), -inf where there is none,
    `offset` (B, K)."""

    shortlist: Shortlist
    embeddings: Tensor
    bias: Tensor
    offset: Tensor | None

    @classmethod
    def of(cls, shortlist: Shortlist, embeddings: Tensor, bias: Tensor, offset: Offset | None) -> Listed:
        """Look the rows up in `embeddings` (N, width) and `bias` (N,)."""
        rows = shortlist.rows.clamp(min=0)
        known = torch.where(shortlist.rows >= 0, bias[rows], -torch.inf)
        return cls(shortlist, embeddings[rows], known, None if offset is None else offset.at(shortlist.rows))
