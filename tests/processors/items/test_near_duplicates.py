"""Near-duplicates: what shares one distillation, what must not, and what is left of another item's knowledge."""

from __future__ import annotations

from dataclasses import replace

import pytest

from freshet.records import Claim, Item, ItemKnowledge
from processors.items.near_duplicates import share, sharing_key

SHIRT = Item("i1", 5, "Acme Oxford Shirt - Red, XL", brand="Acme", category=("clothing", "shirts"))


def titled(title: str, brand: str = "Acme") -> str:
    return sharing_key(Item("x", 1, title, brand=brand))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Acme Oxford Shirt - Red, XL", "ACME  Oxford shirt - Navy Blue, M"),
        ("Herbal Shampoo 12 oz", "Herbal Shampoo 24 oz."),
        ("Herbal Shampoo 500ml", "Herbal Shampoo 2 x 250 ml"),
        ("Trash Bags, 40 count", "Trash Bags, 100-Count"),
        ("Running Shoe (Size 10, Black)", "Running Shoe (Size 9.5, White)"),
        ("Paper Towels pack of 6", "Paper Towels Pack of 12"),
        ("纯棉男士短袖上衣 红色", "纯棉男士短袖上衣 红色"),
        ("纯棉男士短袖上衣，红色", "纯棉男士短袖上衣，深蓝色"),
    ],
)
def test_variants_in_size_or_colour_share(one: str, other: str) -> None:
    """Catches a model asked twenty times about one shirt."""
    assert titled(one) == titled(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Galaxy S21 Case", "Galaxy S22 Case"),
        ("Drill DCD777C2", "Drill DCD778C2"),
        ("Harry Potter 1", "Harry Potter 2"),
        ("Lipton Green Tea", "Lipton Black Tea"),
        ("Lipton Tea - Green", "Lipton Tea - Black"),
        ("Pepper, Black 2 oz", "Pepper, White 2 oz"),
        ("Ibuprofen 200 mg", "Ibuprofen 400 mg"),
        ("Prime lens 50mm", "Prime lens 85mm"),
        ("Disk 256GB", "Disk 512GB"),
        ("Tape 3M", "Tape"),
        ("Phone 5G", "Phone 4G"),
        ("Lamp 40W", "Lamp 60W"),
        ("Oxford Shirt", "Oxford Shirt for kids"),
        ("Brake pads 2010", "Brake pads 2014"),
    ],
)
def test_two_products_never_share(one: str, other: str) -> None:
    """Catches one product's facts published as another's."""
    assert titled(one) != titled(other)


def test_brand_category_and_fixed_attributes_tell_products_apart() -> None:
    """Catches a wool coat that is sold as a rain coat of the same title."""
    key = sharing_key(SHIRT)
    assert sharing_key(replace(SHIRT, item_id="i9", event_time=9, price=4.0, description="x")) == key
    assert sharing_key(replace(SHIRT, brand="Other")) != key
    assert sharing_key(replace(SHIRT, category=("toys",))) != key
    assert sharing_key(replace(SHIRT, attributes={"Material": "wool"})) != key
    assert sharing_key(replace(SHIRT, attributes={"Color": "red", "size": "M"})) == key


@pytest.mark.parametrize("title", ["", " - ", "Red, XL", "Large", "500 ml", "Shirt", "Blue Shirt - M"])
def test_an_item_that_says_too_little_is_never_shared(title: str) -> None:
    """Catches every blue shirt of every seller under one key."""
    assert titled(title, brand="") == ""


def knowledge(*claims: Claim, summary: str = "") -> ItemKnowledge:
    return ItemKnowledge("i1", 5, 7, "f", summary, claims, absent=("sleeve",))


def fact(name: str, quote: str) -> Claim:
    return Claim("attribute", name, quote, quote)


def need(value: str) -> Claim:
    return Claim("occasion", "occasion", value, inferred=True)


def test_a_quote_must_stand_in_the_other_items_text_as_whole_words() -> None:
    """Catches the leader's size published of every variant, also where its digits end another number."""
    shared = share(
        knowledge(fact("type", "Oxford Shirt"), fact("brand", "Acme"), fact("size", "12 oz"), need("work")),
        replace(SHIRT, title="Acme Oxford Shirt 112 oz"),
    )
    assert shared is not None
    assert [claim.value for claim in shared.claims] == ["Oxford Shirt", "Acme", "work"]
    assert shared.absent == ()


def test_what_names_the_leaders_size_or_colour_is_dropped() -> None:
    """Catches a blue shirt described as red."""
    shared = share(
        knowledge(fact("type", "oxford shirt"), need("with red shoes"), need("work"), summary="A red XL oxford shirt"),
        replace(SHIRT, title="Acme Oxford Shirt - Blue, M"),
    )
    assert shared is not None
    assert [claim.value for claim in shared.claims] == ["oxford shirt", "work"]
    assert shared.summary == "A oxford shirt"


def test_too_little_is_not_shared_at_all() -> None:
    """Catches knowledge of another product that its key let through."""
    facts = fact("a", "wool"), fact("b", "winter"), fact("c", "Acme")
    assert share(knowledge(*facts, need("skiing")), SHIRT) is None
    assert share(knowledge(), SHIRT) is None


def test_answers_to_a_catalogue_are_shared_whole_or_not_at_all() -> None:
    """Catches a variant whose size, which the platform asked for, is neither answered nor called absent."""
    answers = replace(knowledge(fact("type", "Oxford Shirt"), fact("colour", "Red")), category=("shirts",))
    assert share(answers, SHIRT) is not None
    assert share(answers, replace(SHIRT, title="Acme Oxford Shirt - Blue, M")) is None
