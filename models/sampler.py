"""Denoise a block of masked slots in a few parallel steps.

Owns the schedule, which slot is fixed with which item, and the promises about them: no item twice, no forbidden item,
every slot filled while items last, one user's block independent of its neighbours, a deadline between steps. Must not
know the network: it sees a `Denoiser`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.block_diffusion import MASK_ROW

GROUP = 64
"""Items per group in `top`: the maxima of groups are found at memory speed, `topk` then sorts 64 times fewer."""


class Denoiser(Protocol):
    """What predicts masked slots."""

    def __call__(self, slots: Tensor, open_: Tensor) -> Tensor:
        """Logits (B, m, N) over item rows for the slots `open_` (B, m); `slots` (B, S) holds rows or MASK_ROW.

        The caller owns the result and writes into it. An item that may never be inferred has logit -inf.
        """
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """A fixed schedule: `slots` are fixed in `steps` steps of as equal a size as possible, larger ones last.

    A confidence threshold never fires over an item vocabulary. Early steps fix fewer slots, since what they fix is
    what the later ones can see. At `temperature` 0 the result does not depend on the seed.
    """

    slots: int = 16
    steps: int = 2
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if not (self.slots >= 1 and self.steps >= 1 and self.temperature >= 0):
            raise ValueError(f"a plan needs slots and steps of at least 1 and a temperature of at least 0: {self}")

    def counts(self) -> tuple[int, ...]:
        """Slots to fix in each step; their sum is `slots`."""
        steps = min(self.steps, self.slots)
        ends = [self.slots * step // steps for step in range(steps + 1)]
        return tuple(end - begin for begin, end in pairwise(ends))


@dataclass(frozen=True, slots=True)
class Block:
    """Denoised slots: `rows` (B, S) item rows or MASK_ROW where open, `confidences` (B, S) in [0, 1], `degraded`."""

    rows: Tensor
    confidences: Tensor
    degraded: bool


@torch.inference_mode()
def denoise(
    denoiser: Denoiser,
    forbidden: tuple[Tensor, Tensor],
    seeds: Sequence[int],
    plan: Plan,
    *,
    expired: Callable[[], bool] = lambda: False,
) -> Block:
    """Fill the slots of `len(seeds)` users; `forbidden` pairs users (M,) with item rows (M,) they must not get.

    Each step 1. scores the open slots, 2. strikes out forbidden and already chosen items, 3. fixes the most confident
    (slot, item) pairs, one item at most once. A confidence is the item's probability among what was allowed at the
    moment it was fixed. `expired` is asked before each step; when it says yes, the block comes back degraded.
    """
    users = len(seeds)
    rows = torch.full((users, plan.slots), MASK_ROW)
    confidences = torch.zeros(users, plan.slots)
    open_ = torch.arange(plan.slots).expand(users, -1)
    everyone = torch.arange(users)
    for step, count in enumerate(plan.counts()):
        if expired():
            return Block(rows, confidences, degraded=True)
        logits = denoiser(rows, open_)  # (B, m, N)
        logits[forbidden[0], :, forbidden[1]] = -torch.inf
        fixed_user, fixed_slot = torch.nonzero(rows != MASK_ROW, as_tuple=True)
        logits[fixed_user, :, rows[fixed_user, fixed_slot]] = -torch.inf
        chosen_slot, chosen_row, probability = _choose(logits, count, _noise(seeds, step, plan))
        slots = open_.gather(1, chosen_slot)
        rows[everyone[:, None], slots] = chosen_row
        confidences[everyone[:, None], slots] = probability
        left = torch.ones_like(open_, dtype=torch.bool).scatter_(1, chosen_slot, False)
        open_ = open_[left].view(users, -1)
    return Block(rows, confidences, degraded=False)


def top(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of the last dimension, like `topk`, through the maxima of groups: exact and faster.

    The `count` largest values lie in the `count` groups with the largest maxima.
    """
    size = logits.shape[-1]
    groups = size // GROUP
    if groups <= 2 * count:
        values, at = logits.topk(min(count, size), dim=-1)
        return values, at
    body = logits[..., : groups * GROUP].view(*logits.shape[:-1], groups, GROUP)
    best = body.amax(-1).topk(count, dim=-1).indices  # (..., count)
    inside = body.gather(-2, best[..., None].expand(*best.shape, GROUP)).flatten(-2)  # (..., count * GROUP)
    at = (best[..., None] * GROUP + torch.arange(GROUP)).flatten(-2)
    if groups * GROUP < size:
        rest = torch.arange(groups * GROUP, size).expand(*at.shape[:-1], -1)
        inside = torch.cat([inside, logits[..., groups * GROUP :]], dim=-1)
        at = torch.cat([at, rest], dim=-1)
    values, where = inside.topk(count, dim=-1)
    return values, at.gather(-1, where)


def _choose(logits: Tensor, count: int, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Fix `count` of the open slots of each user: their place among the open (B, count), item rows, probabilities.

    While `count` items are taken, the `count` best of each slot always hold one that is free.
    """
    users = len(logits)
    values, items = top(logits, count)  # (B, m, K)
    width = values.shape[-1]
    log_probabilities = values - logits.logsumexp(-1, keepdim=True)
    log_probabilities = torch.where(values == -torch.inf, -torch.inf, log_probabilities)
    keys = log_probabilities if noise is None else log_probabilities + noise[:, : logits.shape[1], :width]
    keys, items = keys.flatten(1), items.flatten(1)  # (B, m * K)
    slot_of = torch.arange(logits.shape[1]).repeat_interleave(width).expand(users, -1)
    free = torch.ones_like(slot_of, dtype=torch.bool)
    picks = []
    for _ in range(count):
        # A free slot whose items are all struck out still comes before a slot that is taken.
        pick = torch.where(free, keys.clamp(min=-1e30), -torch.inf).argmax(1, keepdim=True)
        picks.append(pick)
        free &= slot_of != slot_of.gather(1, pick)
        keys = torch.where(items == items.gather(1, pick), -torch.inf, keys)
    picked = torch.cat(picks, dim=1)
    chosen = log_probabilities.flatten(1).gather(1, picked)
    rows = _without_repeats(torch.where(chosen > -torch.inf, items.gather(1, picked), MASK_ROW))
    return slot_of.gather(1, picked), rows, torch.where(rows == MASK_ROW, 0.0, chosen.exp())


def _without_repeats(rows: Tensor) -> Tensor:
    """Open the later of two equal rows: happens only to users with fewer items than slots."""
    same = rows[:, :, None] == rows[:, None, :]
    later = same.tril(-1).any(-1)  # (B, count)
    return torch.where(later, MASK_ROW, rows)


def _noise(seeds: Sequence[int], step: int, plan: Plan) -> Tensor | None:
    """Gumbel noise (B, S, S) times the temperature, from each user's own seed; None at temperature 0.

    Shaped by the plan alone, so that neither batch nor catalogue changes what a user draws.
    """
    if plan.temperature == 0:
        return None
    draws = [np.random.default_rng([seed, step]).gumbel(size=(plan.slots, plan.slots)) for seed in seeds]
    return torch.from_numpy(np.stack(draws)).float() * plan.temperature
