"""The block-diffusion network: causal over a history, bidirectional inside a block of masks, slot i read from i-1.

Owns the architecture and its two ways of running: whole sequences for training, prefix cache plus block for
inference. Must not know how it is trained, nor choose items. The layout follows block diffusion (BD3-LM,
arXiv 2503.09573) with Dream's shifted read-out (arXiv 2508.15487): the state before a slot predicts the slot, so the
first slot is plain next-item prediction and shares its loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

MASK_ROW = -1
"""In a row tensor: a slot that is not denoised yet, read as the mask embedding."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Sizes of a network; `items` counts the trained id rows."""

    items: int
    knowledge_dims: int = 128
    width: int = 64
    layers: int = 2
    heads: int = 2
    feedforward: int = 256
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of twice the heads, {self.heads}")


@dataclass(frozen=True, slots=True)
class EncodedPrefix:
    """Cached histories: `keys` and `values` per layer (B, heads, L, head), `mask` (B, L), `lengths` (B,),
    `last` (B, width) = the state that predicts the first slot."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    lengths: Tensor
    last: Tensor


class Layer(nn.Module):
    """Pre-norm attention with rotary positions, then a GELU feed-forward."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm_attention = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.norm_feedforward = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, config.feedforward)
        self.down = nn.Linear(config.feedforward, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def project(self, x: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, T, head) of states (B, T, width)."""
        batch, length, width = x.shape
        qkv: Tensor = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        qk = rotate(qkv[:, :, :2], rotation)  # (B, T, 2, heads, head)
        q, k = qk.permute(2, 0, 3, 1, 4).unbind()
        return q, k, qkv[:, :, 2].transpose(1, 2)

    def finish(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """States after attending from `q` to `k`, `v` where `mask` (broadcast to B, heads, T, S) is true."""
        attended: Tensor = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        fed: Tensor = self.dropout(self.down(functional.gelu(self.up(self.norm_feedforward(x)))))
        return x + fed


class BlockDiffusionNetwork(nn.Module):
    """Item embeddings in, states out; `scores` ties the output to the same embeddings.

    `score_weight` scales all logits once training is over: what they weigh beside other evidence.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.ids = nn.Parameter(torch.zeros(config.items, config.width))
        self.bias = nn.Parameter(torch.zeros(config.items))
        self.cold_bias = nn.Parameter(torch.zeros(()))
        self.register_buffer("score_weight", torch.ones(()))
        self.score_weight: Tensor
        self.knowledge = nn.Linear(config.knowledge_dims, config.width, bias=False)
        self.mask = nn.Parameter(torch.zeros(config.width))
        self.start = nn.Parameter(torch.zeros(config.width))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        for parameter in (self.ids, self.mask, self.start):
            nn.init.normal_(parameter, std=0.5 / math.sqrt(config.width))
        nn.init.normal_(self.knowledge.weight, std=0.5 / math.sqrt(config.width))

    @property
    def stack(self) -> Sequence[Layer]:
        """The layers, typed."""
        return cast(Sequence[Layer], self.layers)

    def embed(self, vectors: Tensor, trained: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (N, width) and biases (N,) of items with knowledge `vectors` (N, dims).

        `trained` (N,) is each item's id row, or -1 for a new item, whose knowledge alone is its embedding.
        """
        known = (trained >= 0).to(self.ids.dtype)
        rows = trained.clamp(min=0)
        embeddings: Tensor = self.knowledge(vectors) + self.ids[rows] * known[:, None]
        bias = torch.where(trained >= 0, self.bias[rows], self.cold_bias)
        return embeddings, bias * self.score_weight

    def weighed(self, states: Tensor) -> Tensor:
        """States whose products with embeddings, plus their biases, are logits."""
        return states * self.score_weight

    def scores(self, states: Tensor, embeddings: Tensor, bias: Tensor) -> Tensor:
        """Logits (..., N) of `states` (..., width) over items."""
        return functional.linear(self.weighed(states), embeddings, bias)

    def forward(self, clean: Tensor, noisy: Tensor, lengths: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """States of clean and noisy sequences, both (B, T, width), all blocks at once.

        `clean`, `noisy` are embeddings (B, T, width) of the same positions, `lengths` (B,) their true lengths.
        A clean position sees what came before it; a noisy one sees the clean positions before its block and its
        own noisy block. Returned state p predicts position p (shifted: it stands at p-1; the start state for p=0).
        """
        batch, length, _ = clean.shape
        start = self.start.expand(batch, 1, -1)
        x = self.dropout(torch.cat([start, clean, noisy], dim=1))  # (B, 1 + 2T, width)
        positions = torch.arange(length, device=x.device)
        everything = torch.cat([torch.zeros_like(positions[:1]), positions + 1, positions + 1])
        mask = training_mask(length, block, x.device)
        inside = positions < lengths[:, None]  # (B, T)
        keys = torch.cat([torch.ones_like(inside[:, :1]), inside, inside], dim=1)
        mask = mask & keys[:, None, None, :] | torch.eye(1 + 2 * length, dtype=torch.bool, device=x.device)
        rotation = rotations(everything, self.config)
        for layer in self.stack:
            q, k, v = layer.project(x, rotation)
            x = layer.finish(x, q, k, v, mask)
        x = self.norm(x)
        dense: Tensor = x[:, :length]  # the state at p-1 predicts p
        # The first slot of a block stands after clean history only; the others after their own block.
        shifted = torch.cat([dense[:, :1], x[:, 1 + length : 2 * length]], dim=1)
        first = (positions % block == 0)[None, :, None]
        return dense, torch.where(first, dense, shifted)

    def prefix(self, history: Tensor, lengths: Tensor) -> EncodedPrefix:
        """Encode histories (B, L, width), padded on the right to `lengths` (B,), once for all denoising steps."""
        batch, length, _ = history.shape
        x = torch.cat([self.start.expand(batch, 1, -1), history], dim=1)  # (B, 1 + L, width)
        positions = torch.arange(1 + length, device=x.device)
        inside = positions <= lengths[:, None]
        causal = positions[:, None] >= positions[None, :]
        rotation = rotations(positions, self.config)
        keys, values = [], []
        for layer in self.stack[:-1]:
            q, k, v = layer.project(x, rotation)
            keys.append(k)
            values.append(v)
            x = layer.finish(x, q, k, v, causal)  # padding stands after every real position: causal hides it
        # Of the last layer only keys, values and one state are read: a third of the work at two layers.
        everyone = torch.arange(batch, device=x.device)
        q, k, v = self.stack[-1].project(x, rotation)
        last = self.stack[-1].finish(
            x[everyone, lengths, None], q[everyone, :, lengths, None], k, v, inside[:, None, None]
        )
        return EncodedPrefix((*keys, k), (*values, v), inside, lengths, self.norm(last[:, 0]))

    def block(self, prefix: EncodedPrefix, slots: Tensor, valid: Tensor | None = None) -> Tensor:
        """States (B, S, width) that predict each of the slots with embeddings (B, S, width), given the prefix.

        Slots may hold observed behaviors as well as masks. `valid` (B, S) is false where a slot is padding.
        """
        batch, count, _ = slots.shape
        positions = prefix.lengths[:, None] + 1 + torch.arange(count, device=slots.device)  # (B, S)
        rotation = rotations(positions, self.config)
        within = torch.ones(batch, count, dtype=torch.bool, device=slots.device) if valid is None else valid
        mask = torch.cat([prefix.mask, within], dim=1)[:, None, None, :]  # (B, 1, 1, 1 + L + S)
        x = slots
        for layer, past_k, past_v in zip(self.stack, prefix.keys, prefix.values, strict=True):
            q, k, v = layer.project(x, rotation)
            x = layer.finish(x, q, torch.cat([past_k, k], dim=2), torch.cat([past_v, v], dim=2), mask)
        states: Tensor = self.norm(x)
        return torch.cat([prefix.last[:, None], states[:, :-1]], dim=1)


def training_mask(length: int, block: int, device: torch.device) -> Tensor:
    """Who sees whom (1 + 2T, 1 + 2T): start and clean causally; noisy its clean past and its own block."""
    positions = torch.arange(length, device=device)
    of_block = positions // block
    causal = positions[:, None] >= positions[None, :]
    past = of_block[:, None] > of_block[None, :]
    same = of_block[:, None] == of_block[None, :]
    never = torch.zeros_like(causal)
    body = torch.cat([torch.cat([causal, never], dim=1), torch.cat([past, same], dim=1)])
    mask = torch.zeros(1 + 2 * length, 1 + 2 * length, dtype=torch.bool, device=device)
    mask[:, 0] = True
    mask[1:, 1:] = body
    return mask


def rotations(positions: Tensor, config: NetworkConfig) -> Tensor:
    """Rotary turns, complex (T, 1, 1, head / 2) or (B, T, 1, 1, head / 2), of positions (T,) or (B, T)."""
    half = config.width // config.heads // 2
    frequencies = 1000.0 ** (-torch.arange(half, device=positions.device) / half)
    angles = positions[..., None, None, None].float() * frequencies
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn each pair of neighbors in (B, T, 2, heads, head) by its position's angle, as complex numbers."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    turned: Tensor = torch.view_as_real(pairs * rotation).flatten(-2)
    return turned.to(x.dtype)
