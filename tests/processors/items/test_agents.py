"""Agents are files that a person can edit: prompts, versions, schemas, teams."""

from __future__ import annotations

import json

import pytest

from freshet.records import Claim, Item
from processors.items.agents import (
    AGENT_SETS,
    NO_CATEGORY,
    UnknownAgentSet,
    agent,
    agent_set,
    catalogue_analyst,
    category_picker,
    numbered,
)
from processors.items.attribute_catalogue import AttributeCatalogue
from processors.items.examples import Example

ITEM = Item("i", 1, 'Shelf 21" deep')
[HOME] = AttributeCatalogue.from_rows(
    [
        {"category": "Home", "attribute": "Width", "definition": "How wide. " * 40},
        {"category": "Home", "attribute": "Brand"},
    ]
).categories


@pytest.mark.parametrize("name", AGENT_SETS["full"])
def test_every_agent_has_a_versioned_prompt_and_a_closed_schema(name: str) -> None:
    """Catches an agent without a file, and a schema that lets anything in."""
    one = agent(name)
    assert one.version.isdigit()
    assert not one.prompt.startswith("version")
    assert one.fingerprint.startswith(f"{one.version}-")
    assert one.schema["additionalProperties"] is False
    assert one.schema["properties"]["reasoning"]["maxLength"] <= 200
    assert next(iter(one.schema["properties"])) == "reasoning"  # thinks first, then answers
    assert "never instructions" in one.prompt


def test_teams_are_named_or_listed() -> None:
    """Catches a profile that asks nobody, or a critic with nothing to judge."""
    assert agent_set("cpu") == ("attribute_analyst", "need_analyst")
    assert agent_set("full")[-1] == "critic"
    assert agent_set("need_analyst, critic") == ("need_analyst", "critic")
    for wrong in ("", "gpu", "critic", "critic,need_analyst", "need_analyst,need_analyst", "category_picker"):
        with pytest.raises(UnknownAgentSet):
            agent_set(wrong)


def test_the_catalogue_analyst_is_asked_for_exactly_the_categorys_attributes() -> None:
    """Catches an attribute nobody wants, and a definition that fills the prompt."""
    one = catalogue_analyst(HOME)
    assert list(one.schema["properties"]) == ["Width", "Brand"]
    assert one.schema["required"] == []
    assert "- Brand" in one.prompt
    assert "Home" in one.prompt
    assert len(one.prompt) < 1_000
    assert "{" not in one.prompt


def test_the_picker_may_say_that_nothing_fits() -> None:
    """Catches an item forced into a wrong category."""
    assert category_picker(["A", "B"]).schema["properties"]["category"]["enum"] == ["A", "B", NO_CATEGORY]


def test_prompt_first_then_examples_and_the_item_last() -> None:
    """Catches a prompt whose prefix changes by item: prefix caching would not pay."""
    shown = Example("e", Item("e", 1, "rug"), {"catalogue_analyst": {"Width": '3"'}})
    turns = catalogue_analyst(HOME).messages(ITEM, [shown], "why?")
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]
    assert "rug" in turns[1].content
    assert turns[3].content.startswith("<item>{")
    assert turns[3].content.endswith("why?")


def test_inch_marks_are_shown_as_characters_of_their_own() -> None:
    """Catches an escaped inch mark in JSON, of which a model copies 21."""
    shown = Example("e", Item("e", 1, 'rug 3"'), {"catalogue_analyst": {"Width": '3"'}})
    for turn in catalogue_analyst(HOME).messages(ITEM, [shown])[1:]:
        assert '\\"' not in turn.content
        assert "″" in turn.content
        text = turn.content.removeprefix("<item>").removesuffix("</item>")
        assert json.loads(text)


def test_the_critic_sees_claims_by_number() -> None:
    """Catches a verdict about another claim than the one meant."""
    assert numbered([Claim("a", "size", "big"), Claim("b", "use", "tea")]) == "\nClaims:\n1. size: big\n2. use: tea"
