"""How many slots a denoising step fixes: a fixed share, all that are certain, or as many as their entropies allow.

Owns the schedules and their table. Must not choose items: it sees confidences and entropies of open slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

Schedule = Callable[[Tensor, Callable[[], Tensor], Tensor, float], Tensor]
"""(confidences (B, m), entropies () -> (B, m) in nats, open (B, m), bound) -> slots it would fix (B,)."""


def fixed(confidences: Tensor, entropies: Callable[[], Tensor], open_: Tensor, bound: float) -> Tensor:
    """No more than the least: as equal a number in every step as possible."""
    return torch.zeros(len(open_), dtype=torch.long)


def confident(confidences: Tensor, entropies: Callable[[], Tensor], open_: Tensor, bound: float) -> Tensor:
    """All slots whose best item has at least probability `bound` (Fast-dLLM, arXiv 2505.22618).

    Over an item vocabulary a bound like the .9 of texts never fires.
    """
    return ((confidences >= bound) & open_).sum(1)


def entropy_bounded(confidences: Tensor, entropies: Callable[[], Tensor], open_: Tensor, bound: float) -> Tensor:
    """As many of the surest slots as keep the sum of their entropies, less the largest, within `bound` nats.

    The sum bounds what fixing them together, as if independent, can get wrong (EB-Sampler, arXiv 2505.24857).
    """
    ordered = torch.where(open_, entropies(), torch.inf).sort(dim=1).values
    before = ordered.cumsum(1) - ordered  # the largest of the first k is the k-th
    return ((before <= bound) & ordered.isfinite()).sum(1)


SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {"fixed": fixed, "confidence": confident, "entropy": entropy_bounded}
)
"""By the name `Plan.schedule` takes."""
