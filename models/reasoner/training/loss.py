"""What the block-diffusion network is trained to minimise.

Owns the masking and both losses: dense next-item cross-entropy and 1/t-weighted masked cross-entropy (the bound of
masked diffusion, LLaDA, arXiv 2502.09992; blocks as in BD3-LM, arXiv 2503.09573). Must not optimize anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.reasoner.network import BlockDiffusionNetwork

LEAST_MASKED = 0.1
"""Smallest share of masks in a block: 1/t is unbounded below, and one lonely mask says little."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What does not change from batch to batch: item vectors (N, dims) and each item's share of the events (N,)."""

    vectors: Tensor
    unigram: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """`block` slots are masked and read together; the softmax is full up to `full_softmax_items`, else sampled."""

    block: int = 16
    masked_weight: float = 1.0
    id_dropout: float = 0.3
    negatives: int = 512
    full_softmax_items: int = 5_000


def losses(
    network: BlockDiffusionNetwork, corpus: Corpus, rows: Tensor, lengths: Tensor, config: LossConfig
) -> tuple[Tensor, Tensor]:
    """Dense next-item cross-entropy, and 1/t-weighted masked cross-entropy, of windows `rows` (B, T).

    An item whose id is dropped in this step, on the input and on the output, is read as a new one.
    """
    batch, length = rows.shape
    places = torch.arange(length, device=rows.device)
    inside = places < lengths[:, None]
    blocks = -(-length // config.block)
    share = torch.empty(batch, blocks, device=rows.device).uniform_(LEAST_MASKED, 1.0)
    share = share.repeat_interleave(config.block, 1)[:, :length]
    hidden = (torch.rand(batch, length, device=rows.device) < share) & inside
    embeddings, bias = network.embed(corpus.vectors, kept_ids(corpus.vectors, config.id_dropout))
    clean = functional.embedding(rows, embeddings)  # (B, T, width)
    noisy = torch.where(hidden[..., None], network.mask, clean)
    dense, shifted = network(clean, noisy, lengths, config.block)
    wanted = hidden & (places % config.block != 0)  # a block's first slot is the dense loss already
    states = torch.cat([dense[inside], shifted[wanted]])
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

    The logits lose log q, q being an item's chance to be among the candidates: the loss differs from the full one,
    the scores that minimise it do not. With at least as many negatives as items this is the full softmax. At 10
    thousand items it makes a step three times cheaper.
    """
    items = len(embeddings)
    if negatives >= items:
        return functional.cross_entropy(functional.linear(states, embeddings, bias), targets, reduction="none")
    candidates = torch.unique(torch.cat([targets, torch.randint(items, (negatives,), device=targets.device)]))
    place = torch.zeros(items, dtype=torch.long, device=targets.device)
    place[candidates] = torch.arange(len(candidates), device=targets.device)
    missed = negatives * math.log1p(-1 / items) + len(targets) * torch.log1p(-unigram[candidates].clamp(max=0.99))
    chance = -torch.expm1(missed)
    logits = functional.linear(states, embeddings[candidates], bias[candidates] - chance.log())
    return functional.cross_entropy(logits, place[targets], reduction="none")
