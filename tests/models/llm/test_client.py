"""The OpenAI-compatible client against a real loopback server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import anyio
import httpx
import pytest

from models.llm.client import CompletionRequest, LLMForbidden, LLMRejected, LLMUnavailable, Message, OpenAIClient
from tests.support.fakes_llm import MODEL, FakeLlmServer, Trouble

SCHEMA = {"type": "object", "properties": {"summary": {"type": "string"}}, "required": ["summary"]}
ASK = [Message("system", "Say what it is."), Message("user", '<item>{"title": "green tea"}</item>')]


async def ask(client: OpenAIClient) -> dict[str, str]:
    completion = await client.complete(CompletionRequest(ASK, SCHEMA, "s", max_tokens=50))
    assert (completion.tokens_in, completion.tokens_out, completion.finish_reason) == (100, 50, "stop")
    return json.loads(completion.text)


async def test_the_first_served_model_is_asked_and_its_answer_counted() -> None:
    """Catches a client that needs a model name, or loses the usage figures."""
    with FakeLlmServer() as server:
        async with OpenAIClient(server.url) as client:
            assert await ask(client) == {"summary": "summary green tea"}
            assert client.name == MODEL


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        ("429", LLMUnavailable),
        ("503", LLMUnavailable),
        ("garbage", LLMUnavailable),
        ("400", LLMRejected),
        ("401", LLMForbidden),
        ("404", LLMForbidden),
    ],
)
async def test_each_refusal_has_its_family(trouble: str, error: type[Exception]) -> None:
    """Catches a busy endpoint that dead-letters items, or wrong credentials that retry for ever."""
    with FakeLlmServer(Trouble(always=trouble)) as server:
        async with OpenAIClient(server.url, MODEL) as client:
            with pytest.raises(error) as caught:
                await ask(client)
    if trouble == "429":
        assert caught.value.retry_after_s == pytest.approx(0.2)  # type: ignore[attr-defined]


async def test_a_dead_endpoint_is_unavailable_and_comes_back() -> None:
    """Catches a client that stays broken after its endpoint was away."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with OpenAIClient(f"http://127.0.0.1:{port}/v1", MODEL) as client:
        with pytest.raises(LLMUnavailable):
            await ask(client)


async def test_a_slow_endpoint_is_unavailable() -> None:
    """Catches a lane that hangs on a stuck server."""
    with FakeLlmServer(Trouble(delay_s=1.0)) as server:
        async with OpenAIClient(server.url, MODEL, timeout_s=0.1) as client:
            with pytest.raises(LLMUnavailable):
                await ask(client)


class Closing(httpx.AsyncBaseTransport):
    """Answers nothing: is busy closing old connections, behind a shield as httpcore's, when the call is cancelled."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        with anyio.CancelScope(shield=True):
            self.began.set()
            await asyncio.sleep(0.05)
            self.closed = True
        await asyncio.sleep(60)
        raise AssertionError("it must have been cancelled")


@pytest.mark.parametrize("times", [1, 2])
async def test_a_cancelled_call_leaves_no_connection_half_closed(times: int) -> None:
    """Catches sockets left open because a plain cancellation walked through httpcore's shield."""
    transport = Closing()
    client = OpenAIClient("http://127.0.0.1:9/v1", MODEL, transport=transport)
    call = asyncio.create_task(ask(client))
    await transport.began.wait()
    for _ in range(times):
        call.cancel()
        await asyncio.sleep(0)
    with contextlib.suppress(asyncio.CancelledError):
        await call
    assert call.cancelled()
    await client.aclose()
    assert transport.closed
