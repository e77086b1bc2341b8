"""The editor: merges the agents' answers into canonical claims. Code, not a call.

Owns what survives: a quote must stand in the item's text, a claim must be said once and say something. Must not ask a
model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from processors.listing import clean
from schemas.records import Claim, Item

MAX_CLAIMS = 16
NEED_KINDS = ("audience", "occasion", "purpose", "complement")
_EMPTY = frozenset({"", "n/a", "na", "none", "null", "unknown", "not specified", "not stated", "unspecified", "string"})


def edit(item: Item, answers: Mapping[str, Mapping[str, Any]]) -> tuple[str, tuple[Claim, ...]]:
    """Summary and claims from the agents' answers, by agent name.

    1. Attribute claims keep their place only with a quote that stands in the item's text.
    2. Need claims are marked as inferred.
    3. Empty values, and what was said before (spaces and case aside), are dropped.
    """
    summary = clean(str(answers.get("attribute_analyst", {}).get("summary", "")), 200)
    kept: list[Claim] = []
    said: set[tuple[str, str]] = set()
    for claim in (*_attributes(item, answers), *_needs(answers)):
        key = (claim.kind, normalise(claim.value))
        if normalise(claim.value) in _EMPTY or key in said:
            continue
        said.add(key)
        kept.append(claim)
    return summary, tuple(kept[:MAX_CLAIMS])


def source_text(item: Item) -> str:
    """Every word of the item that a quote may come from."""
    parts: Sequence[str] = (item.title, item.brand, *item.category, *item.attributes.values(), item.description)
    return normalise("\n".join(parts))


def normalise(text: str) -> str:
    """Single spaces, lower case: what quotes are compared in."""
    return " ".join(text.split()).casefold()


def _attributes(item: Item, answers: Mapping[str, Mapping[str, Any]]) -> Iterator[Claim]:
    text = source_text(item)
    for attribute in answers.get("attribute_analyst", {}).get("attributes", ()):
        quote = clean(str(attribute["quote"]), 200)
        if quote and normalise(quote) in text:
            name, value = clean(str(attribute["name"]), 80), clean(str(attribute["value"]), 120)
            yield Claim(kind="attribute", name=name.casefold(), value=value, quote=quote)


def _needs(answers: Mapping[str, Mapping[str, Any]]) -> Iterator[Claim]:
    answer = answers.get("need_analyst", {})
    for kind in NEED_KINDS:
        for value in answer.get(kind, ()):
            yield Claim(kind=kind, name=kind, value=clean(str(value), 120), inferred=True)
