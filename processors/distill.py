"""Distil one item: ask the agents, check their answers, edit them into knowledge.

Owns the calls' order, the retry of an invalid answer, the fingerprint and the provenance. Must not know Kafka; a cache,
a critic and a token budget wrap `Distiller` or join `AGENTS`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from models.llm import Completion, LanguageModel
from processors.agents import Agent, agents
from processors.editor import edit
from processors.listing import digest, used_fields
from schemas.records import Item, ItemKnowledge, Provenance

MORE_ROOM = 2
"""An answer cut off or invalid is asked for once more, with this many times the tokens."""
_TEMPERATURE, _SEED = 0.0, 0
_JSON_TYPES: dict[str, type] = {"object": dict, "array": list, "string": str, "boolean": bool}


class InvalidKnowledge(Exception):
    """The model's answer stayed invalid after its retry; `answer` is the last one, raw."""

    def __init__(self, message: str, answer: str) -> None:
        super().__init__(f"{message}; the answer begins {answer[:200]!r}")
        self.answer = answer


class Distiller:
    """Turns items into knowledge with a language model.

    `model_revision` names the weights where the model's name does not; `clock` gives milliseconds since the epoch.
    """

    def __init__(
        self,
        llm: LanguageModel,
        clock: Callable[[], int],
        *,
        team: Sequence[Agent] | None = None,
        model_revision: str = "",
    ) -> None:
        self._llm = llm
        self._clock = clock
        self._team = list(agents() if team is None else team)
        self._model_revision = model_revision

    def fingerprint(self, item: Item) -> str:
        """Identity of the knowledge this distiller makes of `item`: the same one, the same knowledge.

        Over the fields that prompts show (not the price), prompts, schemas, model and decoding parameters.
        """
        team = [agent.fingerprint for agent in self._team]
        return digest(used_fields(item), team, self._llm.name, self._model_revision, _TEMPERATURE, _SEED, MORE_ROOM)

    async def distill(self, item: Item, *, source_partition: int = -1, source_offset: int = -1) -> ItemKnowledge:
        """Knowledge of one item; the agents are asked side by side.

        Raises `InvalidKnowledge` (this item's fault, after its retries), `LLMUnavailable` (try again later),
        `LLMRejected` (this request is bad). The first error ends the other calls.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {agent.name: group.create_task(self._answer(agent, item)) for agent in self._team}
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None  # one error ends the others: the first says what happened
        answers = {name: task.result() for name, task in tasks.items()}
        summary, claims = edit(item, {name: document for name, (document, _) in answers.items()})
        calls = [call for _, made in answers.values() for call in made]
        return ItemKnowledge(
            item_id=item.item_id,
            event_time=item.event_time,
            computed_time=self._clock(),
            fingerprint=self.fingerprint(item),
            summary=summary,
            claims=claims,
            provenance=Provenance(
                agents=tuple(answers),
                prompt_fingerprints={agent.name: agent.fingerprint for agent in self._team},
                model=calls[0].model,
                model_revision=self._model_revision,
                tokens_in=sum(call.tokens_in for call in calls),
                tokens_out=sum(call.tokens_out for call in calls),
                calls=len(calls),
                latency_seconds=max(call.latency_seconds for call in calls),
            ),
            source_partition=source_partition,
            source_offset=source_offset,
        )

    async def _answer(self, agent: Agent, item: Item) -> tuple[Mapping[str, Any], list[Completion]]:
        calls: list[Completion] = []
        for room in (1, MORE_ROOM):
            call = await self._llm.complete(
                agent.messages(item),
                schema=agent.schema,
                schema_name=agent.name,
                max_tokens=agent.max_tokens * room,
                temperature=_TEMPERATURE,
                seed=_SEED,
            )
            calls.append(call)
            problem, document = _parse(call, agent.schema)
            if document is not None:
                return document, calls
        raise InvalidKnowledge(f"{agent.name}: {problem}", calls[-1].text)


def _parse(call: Completion, schema: Mapping[str, Any]) -> tuple[str, Mapping[str, Any] | None]:
    if call.finish_reason == "length":
        return "the answer was cut off", None
    try:
        document = json.loads(call.text)
    except ValueError as error:
        return f"not JSON ({error})", None
    problem = mismatch(document, schema)
    return problem, None if problem else document


def mismatch(value: Any, schema: Mapping[str, Any], path: str = "answer") -> str:
    """Why `value` is not of `schema` ("" where it is): type, required, properties and items, as our schemas use them.

    Lengths are the decoder's business: an answer a little too long is no reason to throw it away.
    """
    if not isinstance(value, _JSON_TYPES[schema["type"]]):
        return f"{path} is not of type {schema['type']}"
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
