"""The editor keeps what is supported, once."""

from __future__ import annotations

from typing import Any

from processors.editor import MAX_CLAIMS, edit
from schemas.records import Item

ITEM = Item("i", 1, "PASTA SCE  Meat", category=("GROCERY",), attributes={"size": "24 OZ"})


def attributes(*triples: tuple[str, str, str]) -> dict[str, Any]:
    listed = [{"name": name, "value": value, "quote": quote} for name, value, quote in triples]
    return {"attribute_analyst": {"summary": "pasta sauce", "attributes": listed}}


def test_a_quote_must_stand_in_the_item() -> None:
    """Catches invention that passes as fact."""
    answers = attributes(
        ("type", "sauce", "pasta sce meat"), ("size", "24 ounces", "24 oz"), ("origin", "Italy", "from Italy")
    )
    summary, claims = edit(ITEM, answers)
    assert summary == "pasta sauce"
    assert [(claim.name, claim.quote) for claim in claims] == [("type", "pasta sce meat"), ("size", "24 oz")]


def test_an_empty_quote_supports_nothing() -> None:
    """Catches '' being found in every text."""
    assert edit(ITEM, attributes(("type", "sauce", " ")))[1] == ()


def test_a_claim_is_kept_once_and_never_empty() -> None:
    """Catches filler such as 'none', and the same need said twice."""
    answers = {"need_analyst": {"audience": ["Families", "families ", "N/A"], "occasion": ["dinner"], "purpose": [""]}}
    _, claims = edit(ITEM, answers)
    assert [(claim.kind, claim.value, claim.inferred) for claim in claims] == [
        ("audience", "Families", True),
        ("occasion", "dinner", True),
    ]


def test_claims_are_capped() -> None:
    """Catches a model that lists without end."""
    answers = {"need_analyst": {"complement": [f"thing {n}" for n in range(99)]}}
    assert len(edit(ITEM, answers)[1]) == MAX_CLAIMS
