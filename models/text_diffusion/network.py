"""A masked language model made of a stock causal one: bidirectional inside a block, over a cached prefix.

Owns the attention mask, the positions, the key-value cache and where a masked position is read. Must not know how
tokens are chosen, nor where weights come from.

Attention is block-causal: a block sees all of itself and every block before it. Within one block that is the full
bidirectional attention LLaDA and Dream are trained with; over several it is Fast-dLLM's prefix cache (arXiv
2505.22618), in which the keys of a finished block no longer change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Tokens (B, L) of B users, right-padded where `valid` (B, L) is False; masked tokens are to be filled."""

    tokens: Tensor
    valid: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Block:
        """One row a user, padded to the longest; a row may be empty."""
        longest = max((len(row) for row in rows), default=0)
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        valid = torch.zeros(len(rows), longest, dtype=torch.bool)
        for at, row in enumerate(rows):
            tokens[at, : len(row)] = torch.tensor(row, dtype=torch.long)
            valid[at, : len(row)] = True
        return cls(tokens, valid)


@dataclass(slots=True, eq=False)
class CachedPrefix:
    """Keys and values of the blocks so far, and which of their positions (B, T) hold a token."""

    cache: DynamicCache
    valid: Tensor


class MaskedNetwork:
    """Logits of masked tokens from a Hugging Face causal model, e.g. `LlamaForCausalLM`, used as an encoder.

    `shifted`: position i is read from the state at i-1, as in Dream, whose blocks must begin with a given token. The
    mask itself is never read. `stop_ids` are read like others and end a text.
    """

    def __init__(self, model: Any, *, mask_id: int, stop_ids: Iterable[int], shifted: bool = False) -> None:
        self.model = model.eval().requires_grad_(False)
        self.mask_id = mask_id
        self.stop_ids = frozenset(stop_ids)
        self.shifted = shifted

    @property
    def device(self) -> torch.device:
        """Where blocks must be."""
        device: torch.device = self.model.lm_head.weight.device
        return device

    def prefix(self, users: int) -> CachedPrefix:
        """An empty prefix."""
        empty = torch.zeros(users, 0, dtype=torch.bool, device=self.device)
        return CachedPrefix(DynamicCache(config=self.model.config), empty)

    def extend(self, prefix: CachedPrefix, block: Block) -> None:
        """Append a finished block to the prefix."""
        self._states(prefix, block)
        prefix.valid = torch.cat([prefix.valid, block.valid], dim=1)

    def read(self, prefix: CachedPrefix, block: Block, open_: Tensor) -> tuple[Tensor, Tensor]:
        """Probability and token (M,) of the best reading at each True of `open_` (B, L), in row-major order.

        Leaves the prefix as it was.
        """
        states = self._states(prefix, block)  # (B, L, D)
        prefix.cache.crop(-block.tokens.shape[1])
        if self.shifted:
            assert not open_[:, 0].any(), "a shifted model cannot read the first token of a block"
            states = states.roll(1, dims=1)
        logits = self.model.lm_head(states[open_]).float()  # (M, V)
        logits[:, self.mask_id] = -torch.inf
        best, tokens = logits.max(dim=1)
        return (best - logits.logsumexp(dim=1)).exp(), tokens

    def _states(self, prefix: CachedPrefix, block: Block) -> Tensor:
        """Last hidden states (B, L, D); the cache grows by the block."""
        seen = torch.cat([prefix.valid, block.valid], dim=1)  # (B, T + L)
        shape = (len(seen), 1, block.tokens.shape[1], seen.shape[1])  # (B, 1, L, T + L)
        dtype = self.model.lm_head.weight.dtype
        mask = torch.zeros(shape, dtype=dtype, device=self.device)
        mask.masked_fill_(~seen[:, None, None, :], torch.finfo(dtype).min)
        begun = prefix.valid.sum(dim=1, keepdim=True)
        positions = (begun + block.valid.cumsum(dim=1) - 1).clamp(min=0)
        states: Tensor = self.model.model(
            input_ids=block.tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=prefix.cache,
            use_cache=True,
        ).last_hidden_state
        return states
