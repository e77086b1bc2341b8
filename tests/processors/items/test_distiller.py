"""Distilling one item: who is asked, in which order, and what the record says of it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import pytest

from freshet.records import Item
from models.llm.client import Completion, LLMUnavailable, Message
from processors.items import agents
from processors.items.agents import NO_CATEGORY
from processors.items.attribute_catalogue import AttributeCatalogue
from processors.items.distiller import DistillationConfig, Distiller
from processors.items.examples import Example, ExampleBank
from tests.support.fakes import FakeClock
from tests.support.fakes_encoder import FakeEncoder
from tests.support.fakes_llm import MODEL, FakeLlm

ITEM = Item("i1", 5, "SHMP KIDS 2IN1", brand="Acme", category=("drug", "hair"), attributes={"size": "12 OZ"}, price=3.5)
CATALOGUE = AttributeCatalogue.from_rows(
    [
        {"category": "Hair", "attribute": "Brand"},
        {"category": "Hair", "attribute": "Size"},
        {"category": "Hair", "attribute": "Color"},
        {"category": "Garden", "attribute": "Height"},
    ]
)


class ScriptedLlm(FakeLlm):
    """Answers agents by name from `script`, the others as `FakeLlm` does."""

    def __init__(self, **script: dict[str, Any]) -> None:
        super().__init__()
        self.script = script

    async def complete(self, messages: Sequence[Message], *, schema_name: str, **asked: Any) -> Completion:
        if schema_name not in self.script:
            return await super().complete(messages, schema_name=schema_name, **asked)
        self.calls.append((schema_name, messages, asked["max_tokens"]))
        return Completion(json.dumps(self.script[schema_name]), 100, 50, 0.01, MODEL, "stop")

    @property
    def asked(self) -> list[str]:
        return [name for name, _, _ in self.calls]


async def test_two_agents_are_asked_once_each_and_accounted_for() -> None:
    """Catches a lost agent, wrong provenance, or a quote that is not the item's."""
    llm = FakeLlm()
    distiller = Distiller(llm, FakeClock(7), version="v3")
    knowledge = await distiller.distill(ITEM, source_partition=2, source_offset=9)
    assert [name for name, _, _ in llm.calls] == ["attribute_analyst", "need_analyst"]
    assert (knowledge.item_id, knowledge.event_time, knowledge.computed_time) == ("i1", 5, 7)
    assert (knowledge.source_partition, knowledge.source_offset) == (2, 9)
    assert (knowledge.version, knowledge.fingerprint) == ("v3", distiller.fingerprint(ITEM))
    cost = knowledge.provenance
    assert (cost.calls, cost.tokens_in, cost.tokens_out, cost.model) == (2, 200, 100, "fake-llm")
    assert set(cost.prompt_fingerprints) == set(cost.agents) == {"attribute_analyst", "need_analyst"}
    assert (cost.profile, cost.origin) == ("cpu", "fresh")
    assert len(cost.examples) == 3
    kinds = {claim.kind for claim in knowledge.claims}
    assert kinds == {"attribute", "audience", "occasion", "purpose", "complement"}
    assert all(claim.inferred == (claim.kind != "attribute") for claim in knowledge.claims)
    assert all(claim.quote == "SHMP" for claim in knowledge.claims if claim.kind == "attribute")


async def test_the_critic_is_asked_last_and_what_it_drops_is_gone() -> None:
    """Catches a need that survives its critic."""
    llm = ScriptedLlm(
        need_analyst={
            "reasoning": "r",
            "audience": ["astronauts"],
            "occasion": ["bath"],
            "purpose": ["wash"],
            "complement": [],
        },
        attribute_analyst={
            "reasoning": "r",
            "summary": "s",
            "attributes": [{"name": "size", "value": "12 oz", "quote": "12 OZ"}],
        },
        critic={"reasoning": "no astronauts", "drop": [2]},
    )
    knowledge = await Distiller(llm, FakeClock(), distillation=DistillationConfig("full")).distill(ITEM)
    assert llm.asked == ["attribute_analyst", "need_analyst", "critic"]
    assert "2. audience: astronauts" in llm.calls[-1][1][-1].content
    assert [claim.value for claim in knowledge.claims] == ["12 oz", "bath", "wash"]


async def test_with_a_catalogue_exactly_its_attributes_are_answered() -> None:
    """Catches an attribute that is neither stated nor called absent."""
    llm = ScriptedLlm(catalogue_analyst={"Brand": "acme", "Size": "20 OZ"})
    distillation = DistillationConfig("attribute_analyst", CATALOGUE)
    knowledge = await Distiller(llm, FakeClock(), distillation=distillation).distill(ITEM)
    assert llm.asked == ["catalogue_analyst"]
    assert knowledge.category == ("Hair",)
    assert [(claim.name, claim.value, claim.quote) for claim in knowledge.claims] == [("Brand", "Acme", "Acme")]
    assert knowledge.absent == ("Size", "Color")


async def test_a_category_nobody_names_is_picked_among_the_nearest() -> None:
    """Catches an item that is asked for another category's attributes."""
    item = dataclasses.replace(ITEM, category=("drugstore",))
    llm = ScriptedLlm(category_picker={"reasoning": "shampoo", "category": "Hair"}, catalogue_analyst={"Brand": "Acme"})
    distillation = DistillationConfig("attribute_analyst", CATALOGUE, encoder=FakeEncoder())
    knowledge = await Distiller(llm, FakeClock(), distillation=distillation).distill(item)
    assert llm.asked == ["category_picker", "catalogue_analyst"]
    assert knowledge.category == ("Hair",)
    nowhere = ScriptedLlm(category_picker={"reasoning": "car", "category": NO_CATEGORY})
    knowledge = await Distiller(nowhere, FakeClock(), distillation=distillation).distill(item)
    assert (nowhere.asked, knowledge.category, knowledge.claims) == (["category_picker"], (), ())


async def test_the_nearest_examples_of_the_category_are_shown_and_named() -> None:
    """Catches examples of another category, and provenance that does not say what the model saw."""
    shown = [
        Example(name, Item(name, 1, title), {"catalogue_analyst": {}}, category)
        for name, title, category in (("a", "shmp", "Hair"), ("b", "shmp kids", "Hair"), ("c", "shmp", "Garden"))
    ]
    llm = ScriptedLlm(catalogue_analyst={})
    distillation = DistillationConfig("attribute_analyst", CATALOGUE, ExampleBank(shown, FakeEncoder()), examples=1)
    knowledge = await Distiller(llm, FakeClock(), distillation=distillation).distill(ITEM)
    assert knowledge.provenance.examples == ("b",)
    assert "shmp kids" in llm.calls[0][1][1].content


async def test_a_model_that_is_away_is_not_the_items_fault() -> None:
    """Catches an ExceptionGroup, which no error table knows."""
    llm = FakeLlm()
    llm.errors.append(LLMUnavailable("busy"))
    with pytest.raises(LLMUnavailable):
        await Distiller(llm, FakeClock()).distill(ITEM)


async def test_cancelling_a_distillation_cancels_its_calls() -> None:
    """Catches calls that go on spending tokens after their lane has gone."""
    started, ended = asyncio.Semaphore(0), []

    class Slow(FakeLlm):
        async def complete(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            started.release()
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(True)

    task = asyncio.create_task(Distiller(Slow(), FakeClock()).distill(ITEM))  # type: ignore[abstract]
    for _ in range(2):
        await started.acquire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(ended) == 2


async def test_the_model_is_named_before_fingerprints_are_compared() -> None:
    """Catches a restarted worker that distills again what a version of the same recipe has, until its first call."""

    class Unnamed(FakeLlm):
        name = ""

        async def served_model(self) -> str:
            self.name = "m"
            return self.name

    llm = Unnamed()
    distiller = Distiller(llm, FakeClock())
    before = distiller.fingerprint(ITEM)
    await distiller.identify()
    assert distiller.fingerprint(ITEM) != before
    assert (await distiller.distill(ITEM)).fingerprint == distiller.fingerprint(ITEM)


def test_the_fingerprint_follows_what_the_answer_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches tokens spent on a new price, and stale knowledge after a new prompt, model, catalogue or team."""
    llm = FakeLlm()

    def made(distillation: DistillationConfig | None = None, **others: str) -> str:
        return Distiller(llm, FakeClock(), distillation=distillation, **others).fingerprint(ITEM)

    base = Distiller(llm, FakeClock())
    assert base.fingerprint(dataclasses.replace(ITEM, price=9.0, event_time=8)) == base.fingerprint(ITEM) == made()
    assert base.fingerprint(dataclasses.replace(ITEM, title="x")) != base.fingerprint(ITEM)
    changed = [
        made(model_revision="r2"),
        made(DistillationConfig("full")),
        made(DistillationConfig(catalogue=CATALOGUE)),
        made(DistillationConfig(examples=1)),
        made(DistillationConfig(bank=ExampleBank([]))),
    ]
    real = agents.agent
    edited = {
        name: dataclasses.replace(real(name), prompt=real(name).prompt + "!") for name in agents.AGENT_SETS["full"]
    }
    monkeypatch.setattr(agents, "agent", edited.__getitem__)
    assert len({*changed, made(), base.fingerprint(ITEM)}) == len(changed) + 2
