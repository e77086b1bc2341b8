"""Denoise a block of masked slots in a few parallel steps.

Owns the schedule, which slot is fixed with which item, and the promises about them: no item twice, no forbidden item,
every slot filled while items last, one user's block independent of its neighbors, a deadline between steps. Must not
know the network: it sees a `Denoiser`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.reasoner.network import MASK_ROW
from models.reasoner.schedules import SCHEDULES

PROBABILITIES_AT_ONCE = 1_000_000
"""Fewer stay in the cache but leave a second thread without work."""
STRUCK = -1e30
"""Key of an item that is taken or forbidden: before a slot that is taken, after everything else."""


class Denoiser(Protocol):
    """What predicts masked slots."""

    def __call__(self, slots: Tensor, open_: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, m, N) over item rows for the slots `open_` (B, m); `slots` (B, S) holds rows or MASK_ROW.

        The caller owns the result and writes into it. An item that may never be inferred has logit -inf. The second
        value is the log of the unnormalized mass (B, m) of allowed items that are not among the N, None without such.
        """
        ...


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """`slots` are fixed in at most `steps` steps, at a `temperature`; 0 makes the result independent of the seed.

    The fixed schedule gives each step as equal a share as possible, larger ones last: what early steps fix is what
    later ones can see. "confidence" and "entropy" fix more where the network is sure of more (`bound`: a probability,
    or nats), and so may need fewer steps; they never fix fewer.
    """

    slots: int = 16
    steps: int = 1
    temperature: float = 0.0
    schedule: str = "fixed"
    bound: float = 0.0

    def __post_init__(self) -> None:
        if not (self.slots >= 1 and self.steps >= 1 and self.temperature >= 0 and self.bound >= 0):
            raise ValueError(f"a plan needs slots and steps of at least 1, temperature and bound of at least 0: {self}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"no schedule {self.schedule!r}: one of {', '.join(SCHEDULES)}")

    def ends(self) -> tuple[int, ...]:
        """Slots that must be fixed by the end of each step; the last is `slots`."""
        steps = min(self.steps, self.slots)
        return tuple(self.slots * step // steps for step in range(1, steps + 1))

    def candidates(self, step: int) -> int:
        """Items per slot among which a step has to choose: as many as the slots it may fix."""
        ends = (0, *self.ends())
        return ends[step + 1] - ends[step] if self.schedule == "fixed" else self.slots

    def counts(self, confidences: Tensor, entropies: Callable[[], Tensor], open_: Tensor, least: Tensor) -> Tensor:
        """Slots (B,) a step fixes, given each open slot's best probability and, where asked for, its entropy."""
        wished = SCHEDULES[self.schedule](confidences, entropies, open_, self.bound)
        return torch.maximum(wished, least)


@dataclass(frozen=True, slots=True)
class SampledBlock:
    """Denoised slots: `rows` (B, S) item rows or MASK_ROW where open, `confidences` (B, S) in [0, 1], `degraded`."""

    rows: Tensor
    confidences: Tensor
    degraded: bool


@torch.inference_mode()
def denoise(
    denoiser: Denoiser,
    forbidden: tuple[Tensor, Tensor],
    seeds: Sequence[int],
    plan: SlotPlan,
    *,
    expired: Callable[[], bool] = lambda: False,
) -> SampledBlock:
    """Fill the slots of `len(seeds)` users; `forbidden` pairs users (M,) with item rows (M,) they must not get.

    Each step 1. scores the open slots, 2. strikes out forbidden and already chosen items, 3. fixes the most confident
    (slot, item) pairs, one item at most once. A confidence is the item's probability among what was allowed at the
    moment it was fixed. `expired` is asked before each step; when it says yes, the block comes back degraded.
    """
    users = len(seeds)
    rows = torch.full((users, plan.slots), MASK_ROW)
    confidences = torch.zeros(users, plan.slots)
    settled = torch.zeros(users, plan.slots, dtype=torch.bool)
    for step, end in enumerate(plan.ends()):
        if expired():
            return SampledBlock(rows, confidences, degraded=True)
        left = (~settled).sum(1)  # (B,)
        least = torch.maximum(end - settled.sum(1), (left > 0).long())
        most_open = int(left.max())
        places = settled.to(torch.uint8).argsort(dim=1, stable=True)[:, :most_open]  # (B, m), open slots first
        open_ = ~settled.gather(1, places)
        logits, rest = denoiser(rows, places)  # (B, m, N), (B, m)
        _strike(logits, forbidden, rows)
        log_probabilities, items = _best(logits, rest, plan.candidates(step))
        counts = plan.counts(log_probabilities[..., 0].exp(), lambda: _entropies(logits), open_, least)  # noqa: B023
        noise = _noise(seeds, step, plan, log_probabilities.shape)
        at, chosen, probabilities = _choose(log_probabilities, items, open_, noise, int(counts.max()))
        users_at, pick = torch.nonzero(torch.arange(at.shape[1]) < counts[:, None], as_tuple=True)
        slots = places[users_at, at[users_at, pick]]
        rows[users_at, slots] = chosen[users_at, pick]
        confidences[users_at, slots] = probabilities[users_at, pick]
        settled[users_at, slots] = True
        if bool(settled.all()):
            break
    return SampledBlock(rows, confidences, degraded=False)


def _strike(logits: Tensor, forbidden: tuple[Tensor, Tensor], rows: Tensor) -> None:
    """Set forbidden items and those a user's other slots hold to -inf, in place."""
    logits[forbidden[0], :, forbidden[1]] = -torch.inf
    user, slot = torch.nonzero(rows != MASK_ROW, as_tuple=True)
    logits[user, :, rows[user, slot]] = -torch.inf


def _best(logits: Tensor, rest: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities and items (B, m, K) of the `count` best of each slot, -inf where struck out."""
    # Some users at a time: log-softmax is fused, and fresh memory of megabytes costs more than it does.
    at_once = max(1, PROBABILITIES_AT_ONCE // max(1, logits[0].numel()))
    parts = [top(part.log_softmax(-1), count) for part in torch.split(logits, at_once)]
    log_probabilities, items = (torch.cat(each) for each in zip(*parts, strict=True))
    if rest is not None:
        listed = torch.sigmoid(logits.logsumexp(-1) - rest)  # share of the mass
        log_probabilities = log_probabilities + listed.log()[..., None]
    return log_probabilities.nan_to_num(nan=-torch.inf, neginf=-torch.inf), items


def _entropies(logits: Tensor) -> Tensor:
    """Entropy (B, m) in nats of each slot over what is allowed."""
    probabilities = logits.softmax(-1)
    return -(probabilities * probabilities.clamp(min=1e-30).log()).sum(-1)


def top(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of the last dimension, like `topk`, through the maxima of groups: exact and faster.

    The `count` largest values lie in the `count` groups with the largest maxima. Group g holds g, g + groups, ...: the
    maxima of all groups are found in one sweep over rows.
    """
    size = logits.shape[-1]
    count = min(count, size)
    per_group = 2 ** max(0, round(math.log2(max(1.0, size / count)) / 2))  # as much to look through in both stages
    groups = size // per_group
    if groups <= 2 * count:
        values, at = logits.topk(count, dim=-1)
        return values, at
    body = logits[..., : groups * per_group].view(*logits.shape[:-1], per_group, groups)
    best = body.amax(-2).topk(count, dim=-1, sorted=False).indices[..., None, :]  # (..., 1, count)
    members = best + groups * torch.arange(per_group, device=logits.device)[:, None]  # (..., per_group, count)
    inside = body.gather(-1, best.expand(members.shape)).flatten(-2)
    at = members.flatten(-2)
    if groups * per_group < size:
        rest = torch.arange(groups * per_group, size, device=logits.device).expand(*at.shape[:-1], -1)
        inside = torch.cat([inside, logits[..., groups * per_group :]], dim=-1)
        at = torch.cat([at, rest], dim=-1)
    values, where = inside.topk(count, dim=-1)
    return values, at.gather(-1, where)


def _choose(
    log_probabilities: Tensor, items: Tensor, open_: Tensor, noise: Tensor | None, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` surest (slot, item) pairs of each user, surest first: places (B, count), item rows, probabilities.

    `log_probabilities` and `items` are (B, m, K), `open_` (B, m). While `count` items are taken, the `count` best of
    each slot always hold one that is free.
    """
    users, _, width = items.shape
    everyone = torch.arange(users)
    keys = log_probabilities if noise is None else log_probabilities + noise
    # A free slot whose items are all struck out still comes before a slot that is taken.
    by_slot = torch.where(open_[..., None], keys.clamp(min=STRUCK), -torch.inf)  # (B, m, K)
    keys, items = by_slot.view(users, -1), items.flatten(1)  # (B, m * K), the same memory
    picks = []
    for _ in range(count):
        pick = keys.argmax(1, keepdim=True)
        picks.append(pick)
        keys.add_((items == items.gather(1, pick)).float(), alpha=STRUCK)
        by_slot[everyone, pick[:, 0] // width] = -torch.inf
    picked = torch.cat(picks, dim=1)
    chosen = log_probabilities.flatten(1).gather(1, picked)
    rows = _without_repeats(torch.where(chosen > -torch.inf, items.gather(1, picked), MASK_ROW))
    return picked // width, rows, torch.where(rows == MASK_ROW, 0.0, chosen.exp())


def _without_repeats(rows: Tensor) -> Tensor:
    """Open the later of two equal rows: happens only to users with fewer items than slots."""
    same = rows[:, :, None] == rows[:, None, :]
    later = same.tril(-1).any(-1)  # (B, count)
    return torch.where(later, MASK_ROW, rows)


def _noise(seeds: Sequence[int], step: int, plan: SlotPlan, shape: torch.Size) -> Tensor | None:
    """Gumbel noise (B, m, K) times the temperature, from each user's own seed; None at temperature 0.

    Drawn by the plan alone, so that neither batch nor catalogue changes what a user draws.
    """
    if plan.temperature == 0:
        return None
    draws = [np.random.default_rng([seed, step]).gumbel(size=(plan.slots, plan.slots)) for seed in seeds]
    noise = torch.from_numpy(np.stack(draws)).float() * plan.temperature
    return noise[:, : shape[1], : shape[2]]
