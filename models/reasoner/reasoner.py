"""What every reasoner promises: histories in, plausible behaviors beyond the log out, in one item space.

Owns the interface and its value types. Must not import torch: the fallback runs without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from freshet.records import InferredBehavior, UserTier
from models.reasoner.catalogue import Catalogue, Vectors

if TYPE_CHECKING:
    from models.encoder.aligner import Aligner
    from models.encoder.encoder import TextEncoder
    from models.reasoner.checkpoint import Checkpoint
    from models.reasoner.config import ReasonerSettings


class UserHistory(Protocol):
    """A user's newest events, oldest first; `store.histories.History` is one."""

    @property
    def user_id(self) -> str: ...

    @property
    def item_ids(self) -> Sequence[str]: ...

    @property
    def event_times(self) -> Sequence[int]: ...


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


FALLBACK = "cooccurrence"
"""Learns from live histories, needs no checkpoint, and answers wherever no other reasoner can."""


Titles = Callable[[Sequence[str]], Sequence[str]]
"""A few words for each item id, in order, the id itself where none are known; raises `TitlesUnavailable`."""


class TitlesUnavailable(Exception):
    """Where titles are kept is away; the same call may succeed later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonerSources:
    """What a reasoner may be made of; a factory takes what it needs. The callables load weights when first called.

    `acceptable` says whether words of a model may be published.
    """

    settings: ReasonerSettings
    timeout_s: float
    checkpoint: Checkpoint | None = None
    encoder: Callable[[], TextEncoder]
    aligner: Callable[[], Aligner]
    titles: Titles
    acceptable: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class ReasonerKind:
    """`factory` is `module:name` and takes the sources; of a `trained` kind there is a checkpoint among them."""

    factory: str
    trained: bool


REASONERS: dict[str, ReasonerKind] = {
    "block-diffusion": ReasonerKind("models.reasoner.block_diffusion:from_sources", trained=True),
    "text-diffusion": ReasonerKind("models.text_diffusion.reasoner:from_sources", trained=False),
}
"""Reasoners beside the fallback, by the name `FRESHET_REASONER` takes.

A new one is one file and one line here. Imported on use: the fallback alone loads no torch.
"""


def make_reasoner(name: str, sources: ReasonerSources) -> BehaviorReasoner:
    """The reasoner called `name`; raises `KeyError` for one that is not in the table, `ValueError` without checkpoint.

    What else a factory raises (`SettingError`, `FileNotFoundError`) names what is missing.
    """
    kind = REASONERS[name]
    module, _, factory = kind.factory.partition(":")
    if kind.trained and sources.checkpoint is None:
        raise ValueError(f"the reasoner {name!r} needs a checkpoint")
    make: Callable[[ReasonerSources], BehaviorReasoner] = getattr(import_module(module), factory)
    return make(sources)
