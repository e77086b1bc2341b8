"""The editor keeps what is supported, once."""

from __future__ import annotations

from typing import Any

import pytest

from freshet.records import Claim, Item
from processors.items.attribute_catalogue import AttributeCatalogue, Category
from processors.items.editor import MAX_CLAIMS, attribute_claims, catalogue_claims, need_claims, summary, surviving

ITEM = Item("i", 1, "PASTA SCE  Meat", category=("GROCERY",), attributes={"size": "24 OZ"})
SHELF = Item("s", 1, 'Acme wire shelf 21" x 42", epoxy', category=("Home",), description="4 tiers. Made in steel.")


def attributes(*triples: tuple[str, str, str]) -> dict[str, Any]:
    listed = [{"name": name, "value": value, "quote": quote} for name, value, quote in triples]
    return {"summary": "pasta sauce", "attributes": listed}


def home(*types: str) -> Category:
    names = ("Brand", "Width", "Material", "Color")
    rows = [{"category": "Home", "attribute": name, "types": kind} for name, kind in zip(names, types, strict=False)]
    [category] = AttributeCatalogue.from_rows(rows).categories
    return category


def test_a_quote_must_stand_in_the_item() -> None:
    """Catches invention that passes as fact."""
    answer = attributes(
        ("type", "sauce", "pasta sce meat"), ("size", "24 ounces", "24 oz"), ("origin", "Italy", "Italy")
    )
    assert summary(answer) == "pasta sauce"
    kept = [(claim.name, claim.quote) for claim in attribute_claims(ITEM, answer)]
    assert kept == [("type", "PASTA SCE Meat"), ("size", "24 OZ")]


@pytest.mark.parametrize("quote", [" ", "", "-", "S"])
def test_what_quotes_no_word_supports_nothing(quote: str) -> None:
    """Catches '' and single letters being found in every text."""
    assert attribute_claims(ITEM, attributes(("type", "sauce", quote))) == []


def test_a_claim_is_kept_once_and_never_empty() -> None:
    """Catches filler such as 'none', and the same need said twice."""
    answer = {"audience": ["Families", "families ", "N/A"], "occasion": ["dinner", "not specified"], "purpose": [""]}
    assert [(claim.kind, claim.value, claim.inferred) for claim in need_claims(answer)] == [
        ("audience", "Families", True),
        ("occasion", "dinner", True),
    ]


def test_claims_are_capped() -> None:
    """Catches a model that lists without end."""
    assert len(need_claims({"complement": [f"thing {n}" for n in range(99)]})) == MAX_CLAIMS


def test_a_catalogues_value_is_its_own_quote_in_the_items_words() -> None:
    """Catches a value that stands nowhere, and one without its inch mark."""
    category = home('["Name"]', '["Numeric with Unit"]', '["Free Text"]', '["Free Text"]')
    answer = {"Brand": "ACME", "Width": "21″", "Material": "stainless steel", "Color": "n/a"}
    claims, absent = catalogue_claims(SHELF, category, answer)
    assert [(claim.name, claim.value, claim.quote) for claim in claims] == [
        ("Brand", "Acme", "Acme"),
        ("Width", '21"', '21"'),
    ]
    assert absent == ["Material", "Color"]


def test_a_numeric_attribute_takes_no_word() -> None:
    """Catches 'epoxy' as a width, quoted faithfully."""
    claims, absent = catalogue_claims(
        SHELF, home("", '["Numeric", "Number as Word"]'), {"Brand": "epoxy", "Width": "epoxy"}
    )
    assert [claim.name for claim in claims] == ["Brand"]
    assert absent == ["Width"]


def test_the_categorys_name_supports_nothing() -> None:
    """Catches 'Home' of Home & Garden as the name of a brand."""
    assert catalogue_claims(SHELF, home("", ""), {"Brand": "Home"})[0] == []


def test_values_are_normalized_by_their_rule() -> None:
    """Catches a rule of the catalogue that nobody follows."""
    rows = [{"category": "Home", "attribute": "Width", "rule": "Convert to centimeters (cm)."}]
    [category] = AttributeCatalogue.from_rows(rows).categories
    [claim] = catalogue_claims(SHELF, category, {"Width": '21"'})[0]
    assert (claim.value, claim.normalized) == ('21"', "53.3")


def test_the_critic_drops_by_number() -> None:
    """Catches the wrong claim dropped, and a number that is none."""
    claims = [Claim("audience", "audience", name) for name in "abc"]
    assert [claim.value for claim in surviving(claims, {"drop": [2, 9, 0, -1]})] == ["a", "c"]
    assert surviving(claims, {"drop": []}) == claims
