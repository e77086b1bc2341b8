"""The editor: merges the agents' answers into canonical claims. Code, not a call.

Owns what survives: a quote must stand in the item's text, a claim must be said once and say something, a value must be
of its attribute's kind. Must not ask a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from freshet.records import Claim, Item
from processors.items.attribute_catalogue import Attribute, Category
from processors.items.item_text import clean
from processors.items.quotes import INCH, Source
from processors.items.value_rules import NUMBER_WORDS, Chooser, normalizer

MAX_CLAIMS = 16
NEED_KINDS = ("audience", "occasion", "purpose", "complement")
_EMPTY = frozenset({"", "n/a", "na", "none", "null", "absent", "unknown", "unspecified", "string"})
_EMPTY_PHRASES = frozenset({"not specified", "not stated", "not available", "not mentioned", "not applicable"})


def attribute_claims(item: Item, answer: Mapping[str, Any]) -> list[Claim]:
    """The open analyst's claims that keep their place: with a quote that stands in the item's text, each said once."""
    source = source_of(item)
    claims = []
    for attribute in answer.get("attributes", ()):
        quote = source.find(str(attribute["quote"]))
        if quote:
            name, value = clean(str(attribute["name"]), 80), _plain(str(attribute["value"]), 120)
            claims.append(Claim("attribute", name.casefold(), value, quote=clean(quote, 200)))
    return distinct(claims)


def catalogue_claims(
    item: Item, category: Category, answer: Mapping[str, Any], choose: Chooser | None = None
) -> tuple[list[Claim], list[str]]:
    """Claims about exactly the attributes of `category`, and the names of those that are absent.

    A value is its own quote: what does not stand in the item's text (the category's name is none of it), or is not of
    its attribute's kind, is absent. `choose` picks among a rule's allowed values.
    """
    source = Source.of(item.title, item.brand, *item.attributes.values(), item.description)
    claims, absent = [], []
    for attribute in category.attributes:
        said = answer.get(attribute.name)
        value = source.find(said) if isinstance(said, str) and not _says_nothing(said) else None
        if value is None or not _of_kind(value, attribute):
            absent.append(attribute.name)
            continue
        normalize_value = normalizer(attribute.rule, choose)
        normalized = normalize_value(value) if normalize_value else None
        claims.append(Claim("attribute", attribute.name, value, quote=value, normalized=normalized))
    return claims, absent


def need_claims(answer: Mapping[str, Any]) -> list[Claim]:
    """The need analyst's claims, marked as inferred, each said once."""
    claims = []
    for kind in NEED_KINDS:
        for value in answer.get(kind, ()):
            claims.append(Claim(kind=kind, name=kind, value=_plain(str(value), 120), inferred=True))
    return distinct(claims)


def summary(answer: Mapping[str, Any]) -> str:
    """The open analyst's one sentence."""
    return _plain(str(answer.get("summary", "")), 200)


def surviving(claims: Sequence[Claim], verdict: Mapping[str, Any]) -> list[Claim]:
    """Claims that the critic, who was shown them numbered from 1, did not drop."""
    dropped = set(verdict.get("drop", ()))
    return [claim for number, claim in enumerate(claims, 1) if number not in dropped]


def distinct(claims: Sequence[Claim]) -> list[Claim]:
    """At most `MAX_CLAIMS`, without those that say nothing or what was said before (space and case aside)."""
    kept: dict[tuple[str, str], Claim] = {}
    for claim in claims:
        if not _says_nothing(claim.value):
            kept.setdefault((claim.kind, normalize(claim.value)), claim)
    return list(kept.values())[:MAX_CLAIMS]


def source_of(item: Item) -> Source:
    """Every word of the item that a quote may come from."""
    return Source.of(item.title, item.brand, *item.category, *item.attributes.values(), item.description)


def source_text(item: Item) -> str:
    """The same words as one text, as `normalize` writes them."""
    return normalize(source_of(item).text)


def normalize(text: str) -> str:
    """Single spaces, lower case."""
    return " ".join(text.split()).casefold()


def _plain(text: str, limit: int) -> str:
    return clean(text.replace(INCH, '"'), limit)


def _says_nothing(value: str) -> bool:
    said = normalize(value)
    return said in _EMPTY or said in _EMPTY_PHRASES


def _of_kind(value: str, attribute: Attribute) -> bool:
    """Whether a value has a number in it where all of the attribute's kinds are numeric."""
    kinds: Iterator[str] = (kind.strip() for kind in re.split(r"[\[\]\",;|]+", attribute.types) if kind.strip())
    if not all(kind.startswith(("Numeric", "Number", "Unique")) for kind in kinds) or not attribute.types:
        return True
    words = re.findall(r"[a-z]+", value.casefold())
    return any(c.isdigit() for c in value) or any(word in NUMBER_WORDS for word in words)
