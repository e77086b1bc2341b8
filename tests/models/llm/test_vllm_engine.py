"""The in-process engine without vLLM: what it asks of it, and what its errors become."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from models.llm.backends import Endpoint, connect
from models.llm.client import Completion, CompletionRequest, LLMRejected, LLMTimeout, LLMUnavailable, Message
from models.llm.vllm_engine import EngineError, VllmEngine

SCHEMA = {"type": "object", "properties": {"summary": {"type": "string"}}, "required": ["summary"]}
ASK = [Message("system", "Say what it is."), Message("user", "<item>{}</item>")]


class VLLMClientError(Exception):
    """vLLM's, by name."""


class EngineDeadError(Exception):
    """vLLM's, by name."""


class Arguments:
    """Keeps what it was given, as vLLM's argument classes do."""

    def __init__(self, **given: Any) -> None:
        self.given = given


class Tokenizer:
    def apply_chat_template(self, turns: list[dict[str, str]], **options: Any) -> list[int]:
        assert options == {"tokenize": True, "add_generation_prompt": True, "return_dict": False}
        return [len(turn["content"]) for turn in turns]


class Engine:
    """One engine of the fake vLLM; `error` is raised by the next requests, `delay_s` holds them back."""

    made: list[Engine] = []  # noqa: RUF012 - cleared by the fixture

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.requests: list[tuple[Any, Any, str]] = []
        self.error: Exception | None = None
        self.delay_s = 0.0
        self.errored = self.ended = self.aborted = False
        Engine.made.append(self)

    @classmethod
    def from_engine_args(cls, arguments: Arguments) -> Engine:
        if arguments.given["model"] == "broken":
            raise ValueError("no config.json")
        return cls(arguments)

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer()

    async def generate(self, prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        self.requests.append((prompt, params, request_id))
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.aborted = True
            raise
        if self.error:
            raise self.error
        choice = SimpleNamespace(text='{"summary":"tea"}', token_ids=(1, 2, 3), finish_reason="length")
        yield SimpleNamespace(prompt_token_ids=prompt["prompt_token_ids"], outputs=[choice])

    def shutdown(self) -> None:
        self.ended = True


@pytest.fixture(autouse=True)
def _vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `vllm` with the names of 0.32, where they are."""
    Engine.made = []
    platform = SimpleNamespace(is_cpu=lambda: True)
    contents: Mapping[str, Mapping[str, Any]] = {
        "vllm": {},
        "vllm.engine": {},
        "vllm.engine.arg_utils": {"AsyncEngineArgs": Arguments},
        "vllm.platforms": {"current_platform": platform},
        "vllm.sampling_params": {
            "RequestOutputKind": SimpleNamespace(FINAL_ONLY="final"),
            "SamplingParams": Arguments,
            "StructuredOutputsParams": Arguments,
        },
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.async_llm": {"AsyncLLM": Engine},
    }
    for name, members in contents.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)


async def ask(engine: VllmEngine) -> Completion:
    return await engine.complete(CompletionRequest(ASK, SCHEMA, "s", max_tokens=40, temperature=0.0, seed=3))


async def test_a_request_carries_the_chat_the_schema_and_its_limits() -> None:
    """Catches an answer that is not constrained, has no end, or is asked without the model's own template."""
    engine = VllmEngine("org/model", max_num_seqs=9)
    answer = await ask(engine)
    await ask(engine)
    [made] = Engine.made
    (prompt, params, first), (_, _, second) = made.requests
    assert prompt == {"prompt_token_ids": [15, 15]}
    given = params.given
    assert (given["max_tokens"], given["temperature"], given["seed"], given["output_kind"]) == (40, 0.0, 3, "final")
    assert given["structured_outputs"].given == {"json": SCHEMA}
    assert first != second
    assert made.arguments.given["max_num_seqs"] == 9
    assert made.arguments.given["structured_outputs_config"]["disable_any_whitespace"]
    assert (answer.text, answer.tokens_in, answer.tokens_out, answer.finish_reason) == (
        '{"summary":"tea"}',
        2,
        3,
        "length",
    )
    await engine.aclose()
    assert made.ended


def test_the_engine_names_its_model_as_a_server_does(tmp_path: Path) -> None:
    """Catches fingerprints that differ between engine and server on the same weights, and a load before a question."""
    folder = tmp_path / "Qwen"
    folder.mkdir()
    assert VllmEngine(f"{folder}/").name == "Qwen"
    assert connect("vllm", Endpoint("", "org/model", 5, 4)).name == "org/model"
    assert Engine.made == []


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (ValueError("too long"), LLMRejected),
        (VLLMClientError("too long"), LLMRejected),
        (EngineDeadError("gone"), EngineError),
        (RuntimeError("one request"), LLMUnavailable),
    ],
)
async def test_each_error_has_its_family(error: Exception, becomes: type[Exception]) -> None:
    """Catches a run that retries a dead engine for ever, or notes items as bad for the engine's fault."""
    engine = VllmEngine("org/model")
    await ask(engine)
    Engine.made[0].error = error
    with pytest.raises(becomes):
        await ask(engine)


async def test_a_late_answer_is_given_up_and_aborted() -> None:
    """Catches requests that go on computing after nobody waits for them."""
    engine = VllmEngine("org/model", timeout_s=0.05)
    await ask(engine)
    Engine.made[0].delay_s = 5
    with pytest.raises(LLMTimeout):
        await ask(engine)
    assert Engine.made[0].aborted


async def test_weights_that_do_not_load_and_a_missing_vllm_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a bare traceback from deep inside vLLM."""
    with pytest.raises(EngineError, match="cannot load broken"):
        await ask(VllmEngine("broken"))
    monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", None)
    with pytest.raises(EngineError, match="--llm"):
        await ask(VllmEngine("org/model"))
    with pytest.raises(EngineError, match="weights"):
        VllmEngine("")
