"""What a worker makes a version of: the components its lanes use, by the names a manifest has.

Owns which lane uses what, and the pinning of a language model before its first answer counts. Must not know what
becomes of a conflict: that is the worker's to end with.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from freshet.records import ItemFeatures, ItemKnowledge, UserFeatures
from models.llm.client import Completion, LanguageModel, Message, WrappedModel
from schemas.history import fingerprint
from streams.wiring.resources import Resources

ITEM_LANES = frozenset({"item-text", "item-distill"})


def worker_name() -> str:
    """How this process is called among the workers of a version."""
    return f"{socket.gethostname()}:{os.getpid()}"


def schema_identity() -> str:
    """The contracts of what a ranker is given, each with the fingerprint of its schema."""
    return " ".join(f"{kind.__name__}@{fingerprint(kind):016x}" for kind in (ItemFeatures, UserFeatures, ItemKnowledge))


def components(names: Sequence[str], resources: Resources) -> dict[str, str]:
    """What the lanes called `names` use and can be known before they run. Loads models: call it from a thread.

    Not among them: the language model (`PinningModel`) and the reasoner's checkpoint (`streams.lanes.live_reasoner`),
    which may come later.
    """
    lanes, settings = set(names), resources.settings
    found: dict[str, str] = {}
    if lanes & (ITEM_LANES | {"user-refresh", "sink"}):
        found["dims"] = str(settings.dims)
    if "sink" in lanes:
        found |= {"schema": schema_identity(), "dtype": settings.vector_dtype}
    if lanes & ITEM_LANES:
        found |= {"encoder": resources.encoder.revision, "aligner": resources.aligner.revision}
    if "item-distill" in lanes:
        found["prompts"] = resources.distillation.fingerprint
    if "user-refresh" in lanes:
        found["reasoner"] = settings.reasoner
        # A random aligner is known by the encoder's width alone, and refreshing users asks for no encoder.
        if resources.trained_aligner is not None:
            found["aligner"] = resources.aligner.revision
    return found


class PinningModel(WrappedModel):
    """A `LanguageModel` that makes its name part of the version before anything is asked of it.

    `pin` raises where the version has another model's answers; transient errors of it are the caller's to retry.
    """

    def __init__(self, llm: LanguageModel, pin: Callable[[Mapping[str, str]], Awaitable[object]]) -> None:
        super().__init__(llm)
        self._pin = pin
        self._pinned = ""

    async def served_model(self) -> str:
        """See `LanguageModel.served_model`."""
        name = await super().served_model()
        if name != self._pinned:
            await self._pin({"llm": name})
            self._pinned = name
        return name

    async def complete(self, messages: Sequence[Message], **asked: Any) -> Completion:
        """See `LanguageModel.complete`."""
        await self.served_model()
        return await super().complete(messages, **asked)
