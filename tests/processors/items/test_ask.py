"""Asking for one answer: retries, what counts as valid, and what is quarantined."""

from __future__ import annotations

import json
from typing import Any

import pytest

from freshet.records import Item
from models.llm.client import Completion, LLMUnavailable
from processors.items.agents import NEED_ANALYST, agent, category_picker
from processors.items.ask import MORE_ROOM, InvalidKnowledge, QuarantinedKnowledge, answer, mismatch, parse, simpler
from tests.support.fakes_llm import FakeLlm

ITEM = Item("i", 1, "Oat drink")
NEED = agent(NEED_ANALYST)


@pytest.mark.parametrize("trouble", ["{", "no json", "[]", '{"reasoning": 1}', "null", "[" * 100_000])
async def test_an_invalid_answer_is_asked_for_once_more_with_more_room(trouble: str) -> None:
    """Catches dead letters for what a second call mends, and answers that leave the schema."""
    llm = FakeLlm()
    llm.errors.append(trouble)
    said = await answer(llm, NEED, ITEM)
    assert len(said.calls) == 2
    assert [room for _, _, room in llm.calls] == [NEED.max_tokens, MORE_ROOM * NEED.max_tokens]


async def test_the_third_question_asks_for_less() -> None:
    """Catches an item lost because a small model cannot fill the whole schema."""
    llm = FakeLlm()
    llm.errors.extend(["no json", "{"])
    said = await answer(llm, NEED, ITEM)
    assert "reasoning" not in said.document
    assert all(len(said.document[kind]) <= 2 for kind in ("audience", "occasion", "purpose", "complement"))


async def test_an_answer_that_stays_invalid_is_this_items_fault() -> None:
    """Catches an endless retry, and a dead letter without the raw answer."""
    llm = FakeLlm()
    llm.errors.extend(["no json"] * 3)
    with pytest.raises(InvalidKnowledge, match="not JSON") as caught:
        await answer(llm, NEED, ITEM)
    assert caught.value.answer == "no json"
    assert len(llm.calls) == 3


async def test_a_suspect_answer_is_quarantined_at_once() -> None:
    """Catches a link that becomes knowledge, and tokens spent on asking an obedient model again."""
    llm = FakeLlm()
    said = {"reasoning": "x", "audience": ["see http://evil.example/now"], "occasion": ["a"], "purpose": ["b"]}
    raw = json.dumps({**said, "complement": ["c", "d"]})
    llm.errors.append(raw)
    with pytest.raises(QuarantinedKnowledge, match="audience") as caught:
        await answer(llm, NEED, ITEM)
    assert caught.value.answer == raw
    assert len(llm.calls) == 1


async def test_a_model_that_is_away_is_not_the_items_fault() -> None:
    """Catches an outage that costs dead letters."""
    llm = FakeLlm()
    llm.errors.append(LLMUnavailable("busy"))
    with pytest.raises(LLMUnavailable):
        await answer(llm, NEED, ITEM)


def test_a_simpler_schema_asks_for_parts_of_the_same() -> None:
    """Catches a third answer that the first schema would refuse for more than its reasoning."""
    less = simpler(NEED.schema)
    assert set(NEED.schema["properties"]) - set(less["properties"]) == {"reasoning"}
    assert less["properties"]["complement"]["maxItems"] == 2
    assert less["additionalProperties"] is False
    nested: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert simpler(nested) == nested


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"reasoning": "r", "category": "A"}, ""),
        ({"reasoning": "r", "category": "Z"}, "answer.category is none of the allowed values"),
        ({"reasoning": "r"}, "answer.category is missing"),
        ({"reasoning": True, "category": "A"}, "answer.reasoning is not of type string"),
        ({"reasoning": "r", "category": "A", "x": 1}, "answer.x is not in the schema"),
    ],
)
def test_what_leaves_the_schema_is_said(document: dict[str, Any], problem: str) -> None:
    """Catches an endpoint that does not enforce schemas."""
    assert mismatch(document, category_picker(["A"]).schema) == problem


def test_a_number_is_no_truth_value() -> None:
    """Catches `true` read as claim 1."""
    assert mismatch([True], {"type": "array", "items": {"type": "integer"}}) == "answer[0] is not of type integer"


def test_an_answer_that_was_cut_off_is_none_even_if_it_parses() -> None:
    """Catches half of a list taken for the whole."""
    problem, document = parse(Completion("[]", 1, 1, 0.1, "m", "length"), {"type": "array", "items": {}})
    assert document is None
    assert "cut off" in problem
