"""What every reasoner promises: histories in, plausible behaviors beyond the log out, in one item space.

Owns the interface and its value types. Must not import torch: the fallback runs without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from freshet.records import InferredBehavior, UserTier
from models.interactions import UserHistory
from models.reasoner.catalogue import Catalogue, Vectors


@dataclass(frozen=True, slots=True)
class Inference:
    """Behaviors of one user, most confident first; `degraded` where a deadline cut the inference short.

    `text_vector` (dims,) is the sum of confidence times aligned vector over the behaviors that name no item: what they
    add to the user's inferred vector. None where there are none.
    """

    behaviors: tuple[InferredBehavior, ...] = ()
    degraded: bool = False
    text_vector: Vectors | None = field(default=None, compare=False)


class BehaviorReasoner(Protocol):
    """Infers what users plausibly do outside this platform's log."""

    @property
    def name(self) -> str:
        """Name and revision, as published in `UserFeatures.reasoner`."""
        ...

    @property
    def tier(self) -> UserTier:
        """Rank of this reasoner's answers in newer-wins: a higher tier replaces a lower one of the same events."""
        ...

    def infer(
        self,
        histories: Sequence[UserHistory],
        catalogue: Catalogue,
        *,
        slots: int,
        deadline_s: float | None = None,
        seed: int = 0,
    ) -> list[Inference]:
        """One inference per history, in order.

        Up to `slots` distinct live items of `catalogue` each, none of them in the user's history; a reasoner of texts
        may name behaviors that no item stands for among them. Items that the catalogue does not know are skipped; a
        user without any known item gets an empty inference. The answer for a user depends on that user's history, the
        catalogue and `seed`, never on who else is in the batch.
        `deadline_s` bounds the seconds spent: what is fixed by then comes back, marked degraded.
        """
        ...


@runtime_checkable
class LearnsOnline(Protocol):
    """A reasoner that learns from the histories it is shown."""

    def observe(self, histories: Sequence[UserHistory]) -> None:
        """Learn from events not seen before; the same history shown twice counts once."""
        ...
