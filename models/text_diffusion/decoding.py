"""Confident parallel decoding: block by block, every sufficiently sure token at once, at least one a step.

Owns which tokens are fixed when. Must not know text, nor what a network is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.text_diffusion.masked_network import Block, MaskedNetwork

THRESHOLD = 0.9
"""Fast-dLLM's (arXiv 2505.22618), which it gives as safe from .9 to .95."""


@dataclass(frozen=True, slots=True, eq=False)
class Filled:
    """A block decoded: tokens (B, L), their probabilities when fixed (B, L, 1 where given), what is still open (B, L).

    `steps` is how often the network was asked.
    """

    tokens: Tensor
    probabilities: Tensor
    open: Tensor
    steps: int


def _never() -> bool:
    return False


@torch.inference_mode()
def decode(
    network: MaskedNetwork,
    blocks: Sequence[Block],
    *,
    threshold: float = THRESHOLD,
    expired: Callable[[], bool] = _never,
) -> list[Filled]:
    """Fill the masked tokens of `blocks`, one block after the other; given tokens stay as they are.

    Greedy, so that the same blocks give the same tokens. Once `expired` says so, the rest stays open.
    """
    if not blocks:
        return []
    prefix = network.prefix(len(blocks[0].tokens))
    filled: list[Filled] = []
    over = False
    for number, given in enumerate(blocks):
        valid = given.valid.to(network.device)
        tokens = given.tokens.to(network.device, copy=True)
        open_ = (tokens == network.mask_id) & valid
        probabilities = torch.ones(tokens.shape, device=network.device)
        steps = 0
        while not over and bool(open_.any()):
            if over := expired():
                break
            best, read = network.read(prefix, Block(tokens, valid), open_)
            steps += 1
            scores = torch.full(tokens.shape, -1.0, device=network.device)
            scores[open_] = best
            candidates = tokens.masked_scatter(open_, read)
            sure = (scores >= threshold) | functional.one_hot(scores.argmax(dim=1), scores.shape[1]).bool()
            now = open_ & sure
            tokens = torch.where(now, candidates, tokens)
            probabilities = torch.where(now, scores, probabilities)
            open_ = open_ & ~now
        filled.append(Filled(tokens, probabilities, open_, steps))
        over = over or expired()
        if not over and number + 1 < len(blocks) and tokens.shape[1]:
            network.extend(prefix, Block(tokens, valid))
    return filled
