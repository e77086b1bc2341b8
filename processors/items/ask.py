"""One agent's valid answer about one item: asks, checks, and asks again with more room, then for less.

Owns the retries and what makes an answer valid. Must not know what an answer means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freshet.records import Item
from models.llm.client import Completion, CompletionRequest, LanguageModel
from processors.items.agents import Agent
from processors.items.examples import Example
from processors.items.injection_guard import inspect

MORE_ROOM = 2
"""A repeated question has this many times the tokens for its answer."""
TEMPERATURE, SEED = 0.0, 0
_FEW = 2
_JSON_TYPES: dict[str, type] = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}


class InvalidKnowledge(Exception):
    """The model's answer stayed invalid after its retries; `answer` is the last one, raw."""

    def __init__(self, message: str, answer: str) -> None:
        super().__init__(f"{message}; the answer begins {answer[:200]!r}")
        self.answer = answer


class QuarantinedKnowledge(InvalidKnowledge):
    """The answer is well formed and suspect: it echoes instructions, carries a link or advertises."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A valid document and the calls it took."""

    document: Mapping[str, Any]
    calls: Sequence[Completion]
    examples: Sequence[str]


async def answer(
    llm: LanguageModel, agent: Agent, item: Item, examples: Sequence[Example] = (), question: str = ""
) -> Answer:
    """Ask `agent` about `item`.

    1. As the agent is.
    2. Cut off or invalid: once more, with `MORE_ROOM` times the tokens.
    3. Still invalid: with a simpler schema, without reasoning and with short lists.

    Raises `InvalidKnowledge` after that, `QuarantinedKnowledge` at once, and what the model's client raises.
    """
    calls: list[Completion] = []
    messages = agent.messages(item, examples, question)
    problem = ""
    for schema, room in ((agent.schema, 1), (agent.schema, MORE_ROOM), (simpler(agent.schema), MORE_ROOM)):
        request = CompletionRequest(messages, schema, agent.name, agent.max_tokens * room, TEMPERATURE, SEED)
        call = await llm.complete(request)
        calls.append(call)
        problem, document = parse(call, schema)
        if document is not None:
            if reason := inspect(item, agent.prompt, document):
                raise QuarantinedKnowledge(f"{agent.name}: {reason}", call.text)
            return Answer(document, calls, [example.example_id for example in examples])
    raise InvalidKnowledge(f"{agent.name}: {problem}", calls[-1].text)


def simpler(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A smaller version of the schema: no `reasoning`, lists of at most two, texts half as long."""
    match schema["type"]:
        case "object":
            properties = {n: simpler(part) for n, part in schema["properties"].items() if n != "reasoning"}
            required = [name for name in schema.get("required", ()) if name in properties]
            return {**schema, "properties": properties, "required": required}
        case "array":
            most = min(schema.get("maxItems", _FEW), _FEW)
            least = min(schema.get("minItems", 0), most)
            return {**schema, "items": simpler(schema["items"]), "minItems": least, "maxItems": most}
        case "string" if "maxLength" in schema:
            return {**schema, "maxLength": max(8, schema["maxLength"] // 2)}
    return schema


def parse(call: Completion, schema: Mapping[str, Any]) -> tuple[str, Mapping[str, Any] | None]:
    """The answer's document, or why there is none."""
    if call.finish_reason == "length":
        return "the answer was cut off", None
    try:
        document = json.loads(call.text)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({type(error).__name__}: {error})", None
    problem = mismatch(document, schema)
    return problem, None if problem else document


def mismatch(value: Any, schema: Mapping[str, Any], path: str = "answer") -> str:
    """Why `value` is not of `schema` ("" where it is): type, enum, required, properties and items, as our schemas use
    them.

    Lengths are the decoder's business: an answer a little too long is no reason to throw it away.
    """
    if not isinstance(value, _JSON_TYPES[schema["type"]]) or (isinstance(value, bool) and schema["type"] == "integer"):
        return f"{path} is not of type {schema['type']}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{path} is none of the allowed values"
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            if name not in value:
                return f"{path}.{name} is missing"
        inner = ((f"{path}.{name}", part, schema["properties"].get(name)) for name, part in value.items())
    elif isinstance(value, list):
        inner = ((f"{path}[{number}]", part, schema["items"]) for number, part in enumerate(value))
    else:
        return ""
    for name, part, expected in inner:
        if expected is None:
            return f"{name} is not in the schema"
        if problem := mismatch(part, expected, name):
            return problem
    return ""
