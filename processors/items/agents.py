"""The agents that read an item: each a prompt and a JSON schema that a person can read and edit.

Owns which agents exist, the teams, a prompt's identity and how a conversation is put together. Must not call a model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from freshet.records import Claim, Item
from models.llm.client import Message
from processors.items.attribute_catalogue import Attribute, Category
from processors.items.examples import CATALOGUE_ANALYST, Example
from processors.items.item_text import compact, delimited, digest, item_text
from processors.items.quotes import INCH

ATTRIBUTE_ANALYST, NEED_ANALYST, CRITIC = "attribute_analyst", "need_analyst", "critic"
CATEGORY_PICKER = "category_picker"
MAX_TOKENS: dict[str, int] = {ATTRIBUTE_ANALYST: 320, NEED_ANALYST: 320, CRITIC: 160, CATEGORY_PICKER: 60}
"""Tokens an answer may take: what the schemas bound, and some room."""
NO_CATEGORY = "none of these"
_SHOWN_DEFINITION, _VALUE = 110, 80
_ESCAPED_QUOTE = '\\"'

AGENT_SETS: dict[str, tuple[str, ...]] = {
    "cpu": (ATTRIBUTE_ANALYST, NEED_ANALYST),
    "full": (ATTRIBUTE_ANALYST, NEED_ANALYST, CRITIC),
}
"""Who is asked, by profile: two short calls an item where a small model computes on a CPU, all agents elsewhere."""


class UnknownAgentSet(ValueError):
    """A profile that is no team and no list of agents."""


def agent_set(profile: str) -> tuple[str, ...]:
    """The agents of `profile`: a team's name, or agents with commas between, in their order. Raises `UnknownTeam`."""
    names = AGENT_SETS.get(profile) or tuple(name.strip() for name in profile.split(",") if name.strip())
    known = AGENT_SETS["full"]
    if not names or any(name not in known for name in names) or len(set(names)) < len(names):
        raise UnknownAgentSet(f"{profile!r} is none of {', '.join(AGENT_SETS)}, nor some of {', '.join(known)}")
    if names[0] == CRITIC:
        raise UnknownAgentSet(f"{profile!r} begins with the critic, who judges what others have said")
    return names


@dataclass(frozen=True, slots=True)
class Agent:
    """One call: prompt first, then examples, the item last, so that items share a cached prefix.

    `version` is the one its prompt file names. Without examples a model of half a billion parameters copies the
    prompt's own words into every answer.
    """

    name: str
    version: str
    prompt: str
    schema: Mapping[str, Any]
    max_tokens: int

    @property
    def fingerprint(self) -> str:
        """Version, and a digest of everything about this agent that can change an answer."""
        return f"{self.version}-{digest(self.name, self.prompt, self.schema, self.max_tokens)[:16]}"

    def messages(self, item: Item, examples: Sequence[Example] = (), question: str = "") -> list[Message]:
        """The conversation that asks this agent about `item`; `question` stands after it."""
        turns = [Message("system", self.prompt)]
        for example in examples:
            answer = _shown(compact(example.answers[self.name]))
            turns += (Message("user", _listing(example.item)), Message("assistant", answer))
        return [*turns, Message("user", f"{_listing(item)}{question}")]


@cache
def agent(name: str) -> Agent:
    """The agent called `name`, from `prompts/NAME.md` and `prompts/NAME.schema.json`."""
    version, prompt = _prompt(name)
    schema = json.loads((files("processors") / "prompts" / f"{name}.schema.json").read_text(encoding="utf-8"))
    return Agent(name, version, prompt, schema, MAX_TOKENS[name])


def catalogue_analyst(category: Category) -> Agent:
    """The analyst who answers exactly the attributes of `category`; one left out of an answer is absent."""
    version, prompt = _prompt(CATALOGUE_ANALYST)
    lines = "\n".join(_line(attribute) for attribute in category.attributes)
    value = {"type": "string", "maxLength": _VALUE}
    schema = {
        "type": "object",
        "properties": {attribute.name: value for attribute in category.attributes},
        "required": [],
        "additionalProperties": False,
    }
    prompt = prompt.replace("{category}", category.name).replace("{attributes}", lines)
    return Agent(CATALOGUE_ANALYST, version, prompt, schema, 120 + 12 * len(category.attributes))


def category_picker(names: Sequence[str]) -> Agent:
    """The agent who says which of `names` an item belongs to, or that it is `NO_CATEGORY`."""
    version, prompt = _prompt(CATEGORY_PICKER)
    schema = {
        "type": "object",
        "properties": {
            "reasoning": {"type": "string", "maxLength": 80},
            "category": {"type": "string", "enum": [*names, NO_CATEGORY]},
        },
        "required": ["reasoning", "category"],
        "additionalProperties": False,
    }
    return Agent(CATEGORY_PICKER, version, prompt, schema, MAX_TOKENS[CATEGORY_PICKER])


def numbered(claims: Sequence[Claim]) -> str:
    """Claims as the critic is shown them, after the item."""
    lines = (f"{number}. {claim.name}: {claim.value}" for number, claim in enumerate(claims, 1))
    return "\nClaims:\n" + "\n".join(lines)


def _line(attribute: Attribute) -> str:
    definition = " ".join(attribute.definition.split())
    if len(definition) > _SHOWN_DEFINITION:
        definition = definition[:_SHOWN_DEFINITION].rpartition(" ")[0] + " ..."
    return f"- {attribute.name}: {definition}" if definition else f"- {attribute.name}"


def _prompt(name: str) -> tuple[str, str]:
    """Version and text of a prompt file: its first line says `version: N`."""
    text = (files("processors") / "prompts" / f"{name}.md").read_text(encoding="utf-8")
    head, _, body = text.partition("\n")
    found = re.fullmatch(r"version: (\w+)", head.strip())
    if found is None:
        raise ValueError(f"prompts/{name}.md does not begin with its version")
    return found[1], body.strip()


def _listing(item: Item) -> str:
    return delimited(_shown(item_text(item)))


def _shown(document: str) -> str:
    """Inch marks as a character of their own: a model leaves the escaped ones away."""
    return document.replace(_ESCAPED_QUOTE, INCH)
