"""A worker process with fake models, to be killed: `python -m tests.support.lane_process LANE[,LANE]`.

Settings come from FRESHET_* as for `freshet worker`; the encoder needs no weights, and where no LLM is named one
answers from the schema.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Any

import tests.support.shifted_clock  # noqa: F401 - before anybody binds time.time
from models.llm.client import Completion, CompletionRequest
from streams import logs
from streams.jobs.erasure import hourly_sweep
from streams.settings import Settings
from streams.wiring.resources import Resources
from streams.worker.worker import run
from tests.support.fakes_encoder import FakeEncoder


class SchemaLlm:
    """Answers every request with the smallest document of its schema, after `delay_s`."""

    name = "schema"

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    async def complete(self, request: CompletionRequest) -> Completion:
        """See `models.llm.client.LanguageModel.complete`."""
        await asyncio.sleep(self._delay_s)
        return Completion(_text(request.schema), 10, 5, self._delay_s, "schema", "stop")

    async def served_model(self) -> str:
        return self.name

    async def aclose(self) -> None:
        """Nothing is open."""


def _text(schema: Mapping[str, Any]) -> str:
    import json

    return json.dumps(smallest(schema))


def smallest(schema: Mapping[str, Any]) -> Any:
    """The smallest value of a schema of objects, arrays, strings, booleans and numbers."""
    if schema["type"] == "object":
        return {name: smallest(schema["properties"][name]) for name in schema.get("required", ())}
    return {"array": [], "string": "words", "boolean": False, "integer": 0}[schema["type"]]


def main() -> None:
    settings = Settings.load()
    hourly_sweep.SWEEP_S = float(os.environ.get("TEST_SWEEP_S", hourly_sweep.SWEEP_S))
    logs.configure(settings.log_level)
    llm = None if settings.llm.url else SchemaLlm(delay_s=0.05)
    resources = Resources(settings, member=True, encoder=FakeEncoder(), llm=llm)
    sys.exit(asyncio.run(run(sys.argv[1].split(","), resources)))


if __name__ == "__main__":
    main()
