"""The agents that read an item: each a prompt and a JSON schema that a person can read and edit.

Owns which agents exist, their order, their prompts' identity and how an item is shown to a model. Must not call one.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from models.llm import Message
from schemas.records import Item

MAX_TITLE, MAX_DESCRIPTION, MAX_FIELD, MAX_FIELDS = 300, 1_200, 120, 20
# What chat templates use as markers: <|im_start|>, [INST], <<SYS>>, </s>, and our own delimiter.
_TEMPLATE_TOKENS = re.compile(r"<[|｜][^<>|｜]*[|｜]>|<[|｜]|[|｜]>|\[/?INST\]|<</?SYS>>|</?s>|</?item>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Agent:
    """One call: prompt and examples first and the item last, so that all items share a cached prefix.

    `examples` are pairs of listing and answer, both JSON. Without them a model of half a billion parameters copies the
    prompt's own words into every answer.
    """

    name: str
    prompt: str
    examples: Sequence[tuple[str, str]]
    schema: Mapping[str, Any]
    max_tokens: int

    @property
    def fingerprint(self) -> str:
        """Digest of everything about this agent that can change an answer."""
        return digest(self.name, self.prompt, self.examples, self.schema, self.max_tokens)

    def messages(self, item: Item) -> list[Message]:
        """The conversation that asks this agent about `item`."""
        turns = [Message("system", self.prompt)]
        for listing, answer in self.examples:
            turns += (Message("user", _delimited(listing)), Message("assistant", answer))
        return [*turns, Message("user", _delimited(item_text(item)))]


AGENTS: dict[str, int] = {"attribute_analyst": 320, "need_analyst": 320}
"""Agents in their order, with the tokens an answer may take: what their schemas bound, and some room."""


@cache
def agent(name: str) -> Agent:
    """The agent called `name`, from `prompts/NAME.md`, `NAME.schema.json` and its answers in `examples.json`."""
    folder = files("processors") / "prompts"
    examples = json.loads((folder / "examples.json").read_text())
    return Agent(
        name=name,
        prompt=(folder / f"{name}.md").read_text().strip(),
        examples=tuple((_compact(example["item"]), _compact(example[name])) for example in examples),
        schema=json.loads((folder / f"{name}.schema.json").read_text()),
        max_tokens=AGENTS[name],
    )


def agents() -> list[Agent]:
    """Every agent, in order."""
    return [agent(name) for name in AGENTS]


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
    return _compact(used_fields(item))


def _delimited(listing: str) -> str:
    return f"<item>{listing}</item>"


def _compact(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def clean(text: str, limit: int) -> str:
    """Text as data: no control or format characters, no chat-template tokens, single spaces, at most `limit` long."""
    visible = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") else c for c in text)
    stripped = visible
    while (shorter := _TEMPLATE_TOKENS.sub(" ", stripped)) != stripped:  # "<|<|x|>|>" hides a token in a token
        stripped = shorter
    return " ".join(stripped.split())[:limit].rstrip()


def digest(*parts: Any) -> str:
    """sha256 (hex) over JSON of the parts; the identity of content, never of code."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
