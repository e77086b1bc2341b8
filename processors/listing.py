"""An item as data for a prompt: which fields a model sees, cleaned, capped and delimited; and their fingerprint.

Owns what a model is shown of an item. Must not know prompts nor call a model.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from schemas.records import Item

MAX_TITLE, MAX_DESCRIPTION, MAX_FIELD, MAX_FIELDS = 300, 1_200, 120, 20
# What chat templates use as markers: <|im_start|>, [INST], <<SYS>>, </s>, and our own delimiter.
_TEMPLATE_TOKENS = re.compile(r"<[|｜][^<>|｜]*[|｜]>|<[|｜]|[|｜]>|\[/?INST\]|<</?SYS>>|</?s>|</?item>", re.IGNORECASE)


def used_fields(item: Item) -> dict[str, Any]:
    """What the prompts show of an item: cleaned, capped, and without its price, which changes daily and says little."""
    fields: dict[str, Any] = {
        "title": clean(item.title, MAX_TITLE),
        "brand": clean(item.brand, MAX_FIELD),
        "category": " > ".join(clean(part, MAX_FIELD) for part in item.category),
        "attributes": {
            clean(name, MAX_FIELD): clean(value, MAX_FIELD)
            for name, value in sorted(item.attributes.items())[:MAX_FIELDS]
        },
        "description": clean(item.description, MAX_DESCRIPTION),
    }
    return {name: value for name, value in fields.items() if value}


def item_text(item: Item) -> str:
    """The used fields as one JSON object, as the prompts show them."""
    return compact(used_fields(item))


def delimited(listing: str) -> str:
    """A listing between the tags that prompts announce as data."""
    return f"<item>{listing}</item>"


def compact(document: Mapping[str, Any]) -> str:
    """JSON without needless spaces."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def clean(text: str, limit: int) -> str:
    """Text as data: no control or format characters, no chat-template tokens, single spaces, at most `limit` long."""
    visible = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") else c for c in text)
    stripped = visible
    while (shorter := _TEMPLATE_TOKENS.sub(" ", stripped)) != stripped:  # "<|<|x|>|>" hides a token in a token
        stripped = shorter
    return " ".join(stripped.split())[:limit].rstrip()


def content_fingerprint(item: Item) -> str:
    """Identity of what prompts show of `item`: the same one, the same text for a model, whatever its price."""
    return digest(used_fields(item))


def digest(*parts: Any) -> str:
    """sha256 (hex) over JSON of the parts; the identity of content, never of code."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
