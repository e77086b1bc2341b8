"""Reasoners by name. Owns the table and what a reasoner is made from; each is a file of its own, imported on use.

Must not import torch: the fallback runs without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from models.encoder.aligner import Aligner
from models.encoder.encoder import TextEncoder
from models.reasoner.config import ReasonerSettings
from models.reasoner.reasoner import BehaviorReasoner

if TYPE_CHECKING:
    from models.reasoner.checkpoint import Checkpoint

FALLBACK = "cooccurrence"
"""Learns from live histories, needs no checkpoint, and answers wherever no other reasoner can."""


Titles = Callable[[Sequence[str]], Sequence[str]]
"""A few words for each item id, in order, the id itself where none are known; raises `TitlesUnavailable`."""


class TitlesUnavailable(Exception):
    """The store of titles is unavailable; the same call may succeed later."""


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
    "text-diffusion": ReasonerKind("models.text_diffusion.text_reasoner:from_sources", trained=False),
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
