"""The agents that read an item: each a prompt and a JSON schema that a person can read and edit.

Owns which agents exist, their order, their prompts' identity and how an item is shown to a model. Must not call one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from models.llm import Message
from processors.listing import compact, delimited, digest, item_text
from schemas.records import Item


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
            turns += (Message("user", delimited(listing)), Message("assistant", answer))
        return [*turns, Message("user", delimited(item_text(item)))]


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
        examples=tuple((compact(example["item"]), compact(example[name])) for example in examples),
        schema=json.loads((folder / f"{name}.schema.json").read_text()),
        max_tokens=AGENTS[name],
    )


def agents() -> list[Agent]:
    """Every agent, in order."""
    return [agent(name) for name in AGENTS]
