"""What every reasoner promises: histories in, plausible behaviours beyond the log out, in one item space.

Owns the interface and its value types. Must not import torch: the fallback runs without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from models.catalogue import Catalogue
from schemas.records import InferredBehavior, UserTier

if TYPE_CHECKING:
    from models.checkpoint import Checkpoint


class UserHistory(Protocol):
    """A user's newest events, oldest first; `freshet.histories.History` is one."""

    @property
    def user_id(self) -> str: ...

    @property
    def item_ids(self) -> Sequence[str]: ...

    @property
    def event_times(self) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True)
class Inference:
    """Behaviours of one user, most confident first; `degraded` where a deadline cut the inference short."""

    behaviors: tuple[InferredBehavior, ...] = ()
    degraded: bool = False


class BehaviorReasoner(Protocol):
    """Infers what users plausibly do outside this platform's log."""

    @property
    def name(self) -> str:
        """Name and revision, as published in `UserFeatures.reasoner`."""
        ...

    @property
    def tier(self) -> UserTier:
        """Where this reasoner's answers stand in newer-wins."""
        ...

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
        """One inference per history, in order.

        Up to `slots` distinct live items of `catalogue` each, none of them in the user's history. Items that the
        catalogue does not know are skipped; a user without any known item gets an empty inference. The answer for a
        user depends on that user's history, the catalogue and `seed`, never on who else is in the batch.
        `deadline_s` bounds the seconds spent: what is fixed by then comes back, marked degraded.
        """
        ...


@runtime_checkable
class LearnsOnline(Protocol):
    """A reasoner that learns from the histories it is shown."""

    def observe(self, histories: Sequence[UserHistory]) -> None:
        """Learn from events not seen before; the same history shown twice counts once."""
        ...


FALLBACK = "cooccurrence"
"""Learns from live histories, needs no checkpoint, and answers wherever no other reasoner can."""

REASONERS: dict[str, str] = {"block-diffusion": "models.block_reasoner:BlockDiffusionReasoner"}
"""Reasoners that a checkpoint brings, by the name `FRESHET_REASONER` takes: `module:factory` of a `Checkpoint`.

A new one is one file and one line here. Imported on use: the fallback alone loads no torch.
"""


def make_reasoner(name: str, checkpoint: Checkpoint) -> BehaviorReasoner:
    """The reasoner called `name` on this checkpoint; raises `KeyError` for one that is not in the table."""
    module, _, factory = REASONERS[name].partition(":")
    return cast("Callable[[Checkpoint], BehaviorReasoner]", getattr(import_module(module), factory))(checkpoint)
