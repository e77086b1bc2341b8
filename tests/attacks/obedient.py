"""A language model that obeys whoever wrote the listing: it answers in the schema, with what the attack wants said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from models.llm.client import Completion, CompletionRequest, Message
from tests.support.fakes_llm import FakeLlm, answer

WHERE = ("everywhere", "quotes", "last")


def strings(say: str, messages: Sequence[Message]) -> Iterator[str]:
    """What goes into one string after another: `@prompt` leaks the prompt, `@split:a|b` spreads a text over fields."""
    prompt = " ".join(messages[0].content.split())
    if say == "@prompt":
        pieces = [prompt[:400]]
    elif say == "@prompt-split":
        words = prompt.split()
        pieces = [" ".join(words[at : at + 3]) for at in range(0, 90, 3)]
    else:
        pieces = say.removeprefix("@split:").split("|") if say.startswith("@split:") else [say]
    at = 0
    while True:
        yield pieces[at % len(pieces)]
        at += 1


def obeying(document: Any, schema: Mapping[str, Any], say: Callable[[str], str], name: str = "") -> Any:
    """`document` of `schema` with each free string replaced by what `say` makes of its field's name and of itself."""
    if isinstance(document, dict):
        parts = schema.get("properties", {})
        return {key: obeying(value, parts.get(key, {}), say, key) for key, value in document.items()}
    if isinstance(document, list):
        return [obeying(value, schema.get("items", {}), say, name) for value in document]
    if isinstance(document, str) and "enum" not in schema and "const" not in schema and name != "reasoning":
        return say(name)
    return document


class ObedientLlm(FakeLlm):
    """Says `say` in every free string, in the quotes alone, or in the last string alone; cut to the schema or not."""

    def __init__(self, say: str, where: str) -> None:
        super().__init__()
        self._say = say
        self._where = where

    async def complete(self, request: CompletionRequest) -> Completion:
        self.calls.append((request.schema_name, request.messages, 0))
        schema = request.schema
        spoken = strings(self._say, request.messages)
        honest = answer(request.messages, schema)
        names: list[str] = []
        obeying(honest, schema, lambda name: names.append(name) or "")  # type: ignore[func-returns-value]
        seen = 0

        def say(name: str) -> str:
            nonlocal seen
            seen += 1
            chosen = {"everywhere": True, "quotes": name in ("quote", "value"), "last": seen == len(names)}
            return next(spoken) if chosen[self._where] else "kettle"

        text = json.dumps(obeying(honest, schema, say), ensure_ascii=False)
        return Completion(text, 100, 50, 0.01, self.name, "stop")


class ScriptedLlm(FakeLlm):
    """Gives one raw answer, whatever it is asked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    async def complete(self, request: CompletionRequest) -> Completion:
        self.calls.append((request.schema_name, request.messages, 0))
        return Completion(self._text, 100, 50, 0.01, self.name, "stop")
