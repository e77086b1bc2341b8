"""Worked examples: what a bank holds and which of it an item sees."""

from __future__ import annotations

import dataclasses

from freshet.records import Item
from processors.items.agents import ATTRIBUTE_ANALYST, NEED_ANALYST, agent
from processors.items.ask import mismatch
from processors.items.attribute_catalogue import AttributeCatalogue
from processors.items.editor import attribute_claims
from processors.items.examples import CATALOGUE_ANALYST, FEW, Example, ExampleBank, annotated_examples, own_examples
from tests.support.fakes_encoder import FakeEncoder

ITEM = Item("q", 1, "green tea bags")


def example(name: str, title: str, **changes: str) -> Example:
    return Example(name, Item(name, 1, title), {NEED_ANALYST: {}}, **changes)


BANK = [
    example("a", "steel hammer"),
    example("b", "green tea tin"),
    example("c", "black tea bags"),
    example("d", "rug"),
]


def test_the_nearest_are_shown() -> None:
    """Catches a hammer that explains tea."""
    found = ExampleBank(BANK, FakeEncoder()).nearest(ITEM, NEED_ANALYST, 2)
    assert {one.example_id for one in found} == {"b", "c"}


def test_a_small_bank_keeps_its_order_and_a_large_one_ends_with_the_nearest() -> None:
    """Catches prompts that share no prefix, and a nearest example that stands furthest from its item."""
    near = [example("x", "green tea bags box"), *BANK]
    assert [one.example_id for one in ExampleBank(near, FakeEncoder()).nearest(ITEM, NEED_ANALYST, 2)] == ["x", "c"]
    many = [*near, *(example(f"f{n}", f"filler {n}") for n in range(FEW))]
    assert [one.example_id for one in ExampleBank(many, FakeEncoder()).nearest(ITEM, NEED_ANALYST, 2)] == ["c", "x"]


def test_an_item_never_sees_itself_nor_its_title() -> None:
    """Catches an evaluation that shows the answer."""
    bank = ExampleBank([*BANK, example("q", "other"), example("e", " Green  TEA bags")], FakeEncoder())
    assert not {"q", "e"} & {one.example_id for one in bank.nearest(ITEM, NEED_ANALYST, 9)}


def test_no_example_shares_a_product_with_the_item() -> None:
    """Catches another shop's offer of the same product among the examples."""
    bank = ExampleBank([*BANK[:2], example("c", "black tea bags", product="p")], FakeEncoder(), products={"q": "p"})
    assert {one.example_id for one in bank.nearest(ITEM, NEED_ANALYST, 9)} == {"a", "b"}


def test_examples_are_those_of_the_agent_and_the_category() -> None:
    """Catches an example that answers another question."""
    bank = ExampleBank([*BANK, example("t", "tea", category="Tea")], FakeEncoder())
    assert [one.example_id for one in bank.nearest(ITEM, NEED_ANALYST, 9, "Tea")] == ["t"]
    assert bank.nearest(ITEM, ATTRIBUTE_ANALYST, 9) == []
    assert bank.nearest(ITEM, NEED_ANALYST, 0) == []


def test_without_an_encoder_the_first_are_shown() -> None:
    """Catches a worker that cannot start without weights."""
    assert [one.example_id for one in ExampleBank(BANK).nearest(ITEM, NEED_ANALYST, 2)] == ["a", "b"]


def test_the_banks_identity_follows_what_it_shows() -> None:
    """Catches stale knowledge after an example was mended."""
    mended = [*BANK[:3], dataclasses.replace(BANK[3], answers={NEED_ANALYST: {"audience": []}})]
    assert ExampleBank(BANK).fingerprint != ExampleBank(mended).fingerprint


def test_annotated_items_teach_only_what_they_show() -> None:
    """Catches an example whose value stands in the part of its description that is cut away: it teaches to invent."""
    catalogue = AttributeCatalogue.from_rows(
        [{"category": "Tea", "attribute": name} for name in ("Brand", "Size", "Tin")]
    )
    item = Item("i", 1, "Acme tea", category=("Tea",), description="leaf " * 90 + "tin of steel", attributes={"x": "y"})
    gold = {"Brand": ["ACME Inc", "Acme"], "Size": [], "Tin": ["tin of steel"], "Other": ["leaf"]}
    bank = annotated_examples([item, Item("j", 1, "car")], [gold, {}], catalogue)
    [one] = bank.examples
    assert one.answers == {CATALOGUE_ANALYST: {"Brand": "Acme"}}
    assert (one.category, one.item.attributes) == ("Tea", {})


def test_every_own_example_answers_its_schema_with_quotes_from_its_item() -> None:
    """Catches an example that teaches the model to invent."""
    examples = own_examples().examples
    assert len(examples) >= 10
    for one in examples:
        for name in (ATTRIBUTE_ANALYST, NEED_ANALYST):
            assert mismatch(one.answers[name], agent(name).schema) == ""
        kept = attribute_claims(one.item, one.answers[ATTRIBUTE_ANALYST])
        assert len(kept) == len(one.answers[ATTRIBUTE_ANALYST]["attributes"])
