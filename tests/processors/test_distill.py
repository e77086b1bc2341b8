"""Distilling one item: calls, retries, fingerprint, provenance."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import pytest

from models.llm import LLMUnavailable
from processors.agents import agents
from processors.distill import MORE_ROOM, Distiller, InvalidKnowledge, mismatch
from schemas.records import Item
from tests.fakes import FakeClock
from tests.fakes_llm import FakeLlm

ITEM = Item("i1", 5, "SHMP KIDS 2IN1", brand="Acme", category=("drug", "hair"), attributes={"size": "12 OZ"}, price=3.5)


async def test_two_agents_are_asked_once_each_and_accounted_for() -> None:
    """Catches a lost agent, wrong provenance, or a quote that is not the item's."""
    llm = FakeLlm()
    knowledge = await Distiller(llm, FakeClock(7)).distill(ITEM, source_partition=2, source_offset=9)
    assert [name for name, _, _ in llm.calls] == ["attribute_analyst", "need_analyst"]
    assert (knowledge.item_id, knowledge.event_time, knowledge.computed_time) == ("i1", 5, 7)
    assert (knowledge.source_partition, knowledge.source_offset) == (2, 9)
    provenance = knowledge.provenance
    assert (provenance.calls, provenance.tokens_in, provenance.tokens_out, provenance.model) == (
        2,
        200,
        100,
        "fake-llm",
    )
    assert set(provenance.prompt_fingerprints) == set(provenance.agents) == {"attribute_analyst", "need_analyst"}
    kinds = {claim.kind for claim in knowledge.claims}
    assert kinds == {"attribute", "audience", "occasion", "purpose", "complement"}
    assert all(claim.inferred == (claim.kind != "attribute") for claim in knowledge.claims)
    assert all(claim.quote == "SHMP" for claim in knowledge.claims if claim.kind == "attribute")


async def test_stable_text_comes_first_and_the_item_last() -> None:
    """Catches a prompt whose prefix changes by item: prefix caching would not pay."""
    llm = FakeLlm()
    distiller = Distiller(llm, FakeClock())
    await distiller.distill(ITEM)
    await distiller.distill(dataclasses.replace(ITEM, item_id="i2", title="other"))
    first, _, second, _ = (messages for _, messages, _ in llm.calls)
    assert first[:-1] == second[:-1]
    assert first[-1] != second[-1]


@pytest.mark.parametrize("trouble", ["{", "no json", "[]", '{"reasoning": 1}', "null"])
async def test_an_invalid_answer_is_asked_for_once_more_with_more_room(trouble: str) -> None:
    """Catches dead letters for what a second call mends, and answers that leave the schema."""
    llm = FakeLlm()
    llm.errors.append(trouble)
    knowledge = await Distiller(llm, FakeClock()).distill(ITEM)
    assert knowledge.provenance.calls == 3
    rooms = [room for name, _, room in llm.calls if name == "attribute_analyst"]
    assert rooms[1] == MORE_ROOM * rooms[0]


async def test_an_answer_that_stays_invalid_is_this_items_fault() -> None:
    """Catches an endless retry."""
    llm = FakeLlm()
    llm.errors.extend(["no json"] * 4)
    with pytest.raises(InvalidKnowledge, match="not JSON") as caught:
        await Distiller(llm, FakeClock()).distill(ITEM)
    assert caught.value.answer == "no json"


async def test_a_model_that_is_away_is_not_the_items_fault() -> None:
    """Catches an ExceptionGroup, which no error table knows."""
    llm = FakeLlm()
    llm.errors.append(LLMUnavailable("busy"))
    with pytest.raises(LLMUnavailable):
        await Distiller(llm, FakeClock()).distill(ITEM)


async def test_cancelling_a_distillation_cancels_its_calls() -> None:
    """Catches calls that go on spending tokens after their lane has gone."""
    started = asyncio.Event()
    ended = []

    class Slow(FakeLlm):
        async def complete(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            started.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(True)

    task = asyncio.create_task(Distiller(Slow(), FakeClock()).distill(ITEM))  # type: ignore[abstract]
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(ended) == 2


def test_the_fingerprint_follows_what_the_answer_depends_on() -> None:
    """Catches tokens spent on a new price, and stale knowledge after a new prompt or model."""
    llm = FakeLlm()
    base = Distiller(llm, FakeClock())
    assert base.fingerprint(dataclasses.replace(ITEM, price=9.0, event_time=8)) == base.fingerprint(ITEM)
    assert base.fingerprint(dataclasses.replace(ITEM, title="x")) != base.fingerprint(ITEM)
    edited = [dataclasses.replace(agent, prompt=agent.prompt + "!") for agent in agents()]
    assert Distiller(llm, FakeClock(), team=edited).fingerprint(ITEM) != base.fingerprint(ITEM)
    assert Distiller(llm, FakeClock(), model_revision="r2").fingerprint(ITEM) != base.fingerprint(ITEM)


def test_every_example_answers_its_schema_with_quotes_from_its_item() -> None:
    """Catches an example that teaches the model to invent."""
    for agent in agents():
        assert agent.examples
        for listing, answer in agent.examples:
            document = json.loads(answer)
            assert mismatch(document, agent.schema) == ""
            for attribute in document.get("attributes", ()):
                assert attribute["quote"] in listing
