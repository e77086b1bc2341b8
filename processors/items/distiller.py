"""Distil one item: ask the agents of a team, check their answers, edit them into knowledge.

Owns the calls' order, the fingerprint and the provenance. Must not know Kafka or Redis; a cache and a token budget wrap
`Distiller` and its model (`processors/items/cached_distiller.py`, `models/llm/limits.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from freshet.records import Claim, Item, ItemKnowledge, Provenance
from models.encoder.encoder import TextEncoder
from models.llm.client import LanguageModel
from processors.items import agents, editor
from processors.items.agents import ATTRIBUTE_ANALYST, CATEGORY_PICKER, CRITIC, NEED_ANALYST, Agent
from processors.items.ask import (
    MORE_ROOM,
    SEED,
    TEMPERATURE,
    Answer,
    InvalidKnowledge,
    QuarantinedKnowledge,
    answer,
)
from processors.items.attribute_catalogue import AttributeCatalogue, Category
from processors.items.categories import CategoryFinder
from processors.items.examples import ExampleBank, own_examples
from processors.items.item_text import content_fingerprint, digest, used_fields

__all__ = ["DistillationConfig", "Distiller", "InvalidKnowledge", "QuarantinedKnowledge"]


@dataclass(frozen=True, slots=True)
class DistillationConfig:
    """How knowledge is made: everything but the model and the item that decides an answer.

    `profile` names a team or its agents; with a `catalogue` the attribute analyst answers exactly its attributes.
    `bank` are worked examples, of which the `examples` nearest to an item are shown; `encoder` finds them, and the
    candidates for an item's category where it names none of the catalogue's.
    """

    profile: str = "cpu"
    catalogue: AttributeCatalogue | None = None
    bank: ExampleBank = field(default_factory=own_examples)
    examples: int = 3
    encoder: TextEncoder | None = None

    def __post_init__(self) -> None:
        agents.agent_set(self.profile)

    @property
    def agent_set(self) -> tuple[str, ...]:
        """The agents, in their order."""
        return agents.agent_set(self.profile)

    @property
    def fingerprint(self) -> str:
        """Digest of prompts, schemas, decoding, catalogue and examples."""
        prompts = [self._identity(name) for name in (*self.agent_set, CATEGORY_PICKER)]
        catalogue = self.catalogue.fingerprint if self.catalogue else ""
        return digest(prompts, catalogue, self.bank.fingerprint, self.examples, TEMPERATURE, SEED, MORE_ROOM)

    def _identity(self, name: str) -> str:
        if name == ATTRIBUTE_ANALYST and self.catalogue is not None:
            return digest([agents.catalogue_analyst(one).fingerprint for one in self.catalogue.categories])
        return (agents.category_picker(()) if name == CATEGORY_PICKER else agents.agent(name)).fingerprint


@dataclass(slots=True)
class _Draft:
    """What is known of an item so far."""

    item: Item
    category: Category | None = None
    summary: str = ""
    facts: list[Claim] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    needs: list[Claim] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: dict[str, Agent] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def claims(self) -> list[Claim]:
        return [*self.facts, *self.needs]


class Distiller:
    """Turns items into knowledge with a language model.

    `model_revision` names the weights where the model's name does not; `clock` gives milliseconds since the epoch.
    """

    def __init__(
        self,
        llm: LanguageModel,
        clock: Callable[[], int],
        *,
        distillation: DistillationConfig | None = None,
        model_revision: str = "",
        version: str = "",
    ) -> None:
        self._llm = llm
        self._clock = clock
        self._recipe = distillation or DistillationConfig()
        self._made_of = self._recipe.fingerprint
        self._model_revision = model_revision
        self._version = version
        self._finder: CategoryFinder | None = None
        if self._recipe.catalogue is not None and self._recipe.encoder is not None:
            self._finder = CategoryFinder(self._recipe.catalogue, self._recipe.encoder)

    def fingerprint(self, item: Item) -> str:
        """Identity of the knowledge this distiller makes of `item`: the same one, the same knowledge.

        Over the fields that prompts show (not the price), the recipe, and the model.
        """
        return digest(used_fields(item), self._made_of, self._llm.name, self._model_revision)

    async def identify(self) -> None:
        """Learn the model's name where the endpoint chooses it: it is part of fingerprints. Raises `LLMUnavailable`."""
        await self._llm.served_model()

    async def distill(self, item: Item, *, source_partition: int = -1, source_offset: int = -1) -> ItemKnowledge:
        """Knowledge of one item; analysts are asked side by side, the critic after them.

        Raises `InvalidKnowledge` (this item's fault, after its retries), `LLMUnavailable` (try again later),
        `LLMRejected` (this request is bad). The first error ends the other calls.
        """
        draft = _Draft(item)
        started = asyncio.get_running_loop().time()
        waiting: list[Coroutine[Any, Any, None]] = []
        for name in self._recipe.agent_set:
            if name == CRITIC:
                await _together(draft, waiting)
                waiting = []
                await self._criticise(draft)
            else:
                waiting.append(self._attributes(draft) if name == ATTRIBUTE_ANALYST else self._needs(draft))
        await _together(draft, waiting)
        draft.seconds = asyncio.get_running_loop().time() - started
        return self._knowledge(draft, source_partition, source_offset)

    async def _attributes(self, draft: _Draft) -> None:
        draft.category = await self._category(draft)
        if self._recipe.catalogue is None:
            said = await self._ask(draft, agents.agent(ATTRIBUTE_ANALYST))
            draft.summary = editor.summary(said.document)
            draft.facts = editor.attribute_claims(draft.item, said.document)
        elif draft.category is not None:
            said = await self._ask(draft, agents.catalogue_analyst(draft.category), draft.category.name)
            choose = self._nearest_value if self._recipe.encoder is not None else None
            draft.facts, draft.absent = await asyncio.to_thread(
                editor.catalogue_claims, draft.item, draft.category, said.document, choose
            )

    async def _category(self, draft: _Draft) -> Category | None:
        """Its own, else the one a model picks among the nearest; None without a catalogue, or where none fits."""
        catalogue = self._recipe.catalogue
        if catalogue is None:
            return None
        if (named := catalogue.find(draft.item.category)) is not None or self._finder is None:
            return named
        candidates = await asyncio.to_thread(self._finder.candidates, draft.item)
        said = await self._ask(draft, agents.category_picker([category.name for category in candidates]))
        return next((one for one in candidates if one.name == said.document["category"]), None)

    async def _needs(self, draft: _Draft) -> None:
        said = await self._ask(draft, agents.agent(NEED_ANALYST))
        draft.needs = editor.need_claims(said.document)

    async def _criticise(self, draft: _Draft) -> None:
        if not (claims := draft.claims):
            return
        said = await self._ask(draft, agents.agent(CRITIC), question=agents.numbered(claims))
        kept = editor.surviving(claims, said.document)
        if draft.category is not None:
            draft.absent += [claim.name for claim in draft.facts if claim not in kept]
        draft.facts = [claim for claim in kept if not claim.inferred]
        draft.needs = [claim for claim in kept if claim.inferred]

    async def _ask(self, draft: _Draft, agent: Agent, category: str = "", question: str = "") -> Answer:
        bank, count = self._recipe.bank, self._recipe.examples
        examples = await asyncio.to_thread(bank.nearest, draft.item, agent.name, count, category)
        said = await answer(self._llm, agent, draft.item, examples, question)
        draft.answers[agent.name], draft.asked[agent.name] = said, agent
        return said

    def _nearest_value(self, value: str, options: tuple[str, ...]) -> str | None:
        assert self._recipe.encoder is not None
        vectors = self._recipe.encoder.encode([value, *options])
        return options[int((vectors[1:] @ vectors[0]).argmax())]

    def _knowledge(self, draft: _Draft, partition: int, offset: int) -> ItemKnowledge:
        item, calls = draft.item, [call for said in draft.answers.values() for call in said.calls]
        shown = dict.fromkeys(example for said in draft.answers.values() for example in said.examples)
        return ItemKnowledge(
            item_id=item.item_id,
            event_time=item.event_time,
            computed_time=self._clock(),
            fingerprint=self.fingerprint(item),
            summary=draft.summary,
            claims=tuple(draft.claims),
            category=draft.category.path if draft.category else (),
            absent=tuple(draft.absent),
            content_fingerprint=content_fingerprint(item),
            version=self._version,
            provenance=Provenance(
                agents=tuple(draft.asked),
                prompt_fingerprints={name: agent.fingerprint for name, agent in draft.asked.items()},
                model=calls[0].model if calls else self._llm.name,
                model_revision=self._model_revision,
                tokens_in=sum(call.tokens_in for call in calls),
                tokens_out=sum(call.tokens_out for call in calls),
                calls=len(calls),
                latency_seconds=draft.seconds,
                profile=self._recipe.profile,
                examples=tuple(shown),
            ),
            source_partition=partition,
            source_offset=offset,
        )


async def _together(draft: _Draft, asking: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Await all; the first error cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in asking:
                group.create_task(one)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
