"""A language model behind an OpenAI-compatible endpoint: one schema-constrained answer per call.

Owns the request, its errors and the choice of back end. Must not know prompts, nor what an answer means.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import anyio
import httpx


class LLMUnavailable(Exception):
    """The endpoint is down, slow or busy (connection, time-out, 408, 429, 5xx); the same call may succeed later.

    `retry_after_s` is what the endpoint asked for, or None.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LLMBusy(LLMUnavailable):
    """The endpoint answers that it has too much to do (408, 429, 503, 529): fewer calls at once would help."""


class LLMTimeout(LLMBusy):
    """No answer in time; what the call cost so far is not known."""


class LLMRejected(Exception):
    """The endpoint refuses this very request (too long, an unsupported schema); repeating it is of no use."""


class LLMForbidden(Exception):
    """The endpoint refuses us (401, 403) or does not serve the model (404): a wrong setting, not a wrong record."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer and what it cost; `finish_reason` is "stop", or "length" where it was cut off."""

    text: str
    tokens_in: int
    tokens_out: int
    latency_seconds: float
    model: str
    finish_reason: str


class LanguageModel(Protocol):
    """What the agents need of a language model."""

    @property
    def name(self) -> str:
        """Model name as configured; part of a knowledge record's fingerprint. Empty: see `served_model`."""
        ...

    async def served_model(self) -> str:
        """The model's name; asks the endpoint where none is configured, and `name` is it from then on.

        Whoever compares fingerprints asks for it first. Raises as `complete` does.
        """
        ...

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any],
        schema_name: str,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Completion:
        """Answer with JSON of `schema`, at most `max_tokens` long.

        Raises `LLMUnavailable` (try again later), `LLMRejected` (this request is bad) or `LLMForbidden` (settings are).
        """
        ...

    async def aclose(self) -> None:
        """Release connections."""
        ...


class WrappedModel:
    """A language model that passes everything on to another one: the base of those that do something besides."""

    def __init__(self, llm: LanguageModel) -> None:
        self._llm = llm

    @property
    def name(self) -> str:
        """See `LanguageModel.name`."""
        return self._llm.name

    async def served_model(self) -> str:
        """See `LanguageModel.served_model`."""
        return await self._llm.served_model()

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any],
        schema_name: str,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Completion:
        """See `LanguageModel.complete`."""
        return await self._llm.complete(
            messages,
            schema=schema,
            schema_name=schema_name,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
        )

    async def aclose(self) -> None:
        """See `LanguageModel.aclose`."""
        await self._llm.aclose()


class OpenAIClient:
    """Any OpenAI-compatible `/chat/completions`: vLLM, SGLang, or a hosted one.

    Only `response_format: json_schema` constrains the output in vLLM; `guided_json` is silently ignored there.
    """

    def __init__(
        self,
        base_url: str,
        model: str = "",
        *,
        timeout_s: float = 120.0,
        max_connections: int = 16,
        api_key: str = "",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._model = model
        self._letting_go: set[asyncio.Task[httpx.Response | None]] = set()
        self._client = httpx.AsyncClient(
            base_url=base_url.rstrip("/") + "/",
            timeout=httpx.Timeout(timeout_s, connect=5.0, pool=None),
            limits=httpx.Limits(max_connections=max_connections),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            transport=transport,
            trust_env=False,  # a proxy variable must not see item text
        )

    @property
    def name(self) -> str:
        return self._model

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Release connections."""
        if self._letting_go:
            await asyncio.wait(self._letting_go)
        await self._client.aclose()

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any],
        schema_name: str,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Completion:
        """See `LanguageModel.complete`."""
        wanted = {"type": "json_schema", "json_schema": {"name": schema_name, "schema": schema}}
        return await self.chat(
            messages, max_tokens=max_tokens, temperature=temperature, seed=seed, response_format=wanted
        )

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        response_format: Mapping[str, Any] | None = None,
    ) -> Completion:
        """Answer in free text, or as `response_format` says; raises as `complete` does."""
        started = time.monotonic()
        body: dict[str, Any] = {
            "model": await self.served_model(),
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
        }
        if response_format is not None:
            body["response_format"] = response_format
        answer = await self._ask("POST", "chat/completions", body)
        try:
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            return Completion(
                text=choice["message"]["content"] or "",
                tokens_in=int(usage.get("prompt_tokens") or 0),
                tokens_out=int(usage.get("completion_tokens") or 0),
                latency_seconds=time.monotonic() - started,
                model=str(answer.get("model") or body["model"]),
                finish_reason=str(choice.get("finish_reason") or "stop"),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise LLMUnavailable(f"the endpoint's answer is no chat completion: {answer!r:.200}") from error

    async def served_model(self) -> str:
        """See `LanguageModel.served_model`."""
        if not self._model:
            answer = await self._ask("GET", "models", None)
            try:
                self._model = str(answer["data"][0]["id"])
            except (KeyError, IndexError, TypeError) as error:
                raise LLMUnavailable("the endpoint serves no model yet") from error
        return self._model

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        """One request; a cancelled one has let go of its connections when this raises.

        httpcore closes connections behind an anyio shield, which a plain `Task.cancel` walks through, leaving sockets
        open. So the request runs in a task of its own and is cancelled by an anyio scope, which shields respect.
        """
        scope = anyio.CancelScope()

        async def request() -> httpx.Response | None:
            with scope:
                return await self._client.request(method, path, json=body)
            return None

        task = asyncio.create_task(request())
        try:
            response = await asyncio.shield(task)
        except asyncio.CancelledError:
            scope.cancel()
            self._letting_go.add(task)
            task.add_done_callback(self._let_go)
            await asyncio.wait([task])
            raise
        assert response is not None, "only a cancelled request answers nothing"
        return response

    def _let_go(self, task: asyncio.Task[httpx.Response | None]) -> None:
        self._letting_go.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, as nobody else will

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        try:
            response = await self._request(method, path, body)
        except httpx.TransportError as error:
            slow = isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout)
            raise (LLMTimeout if slow else LLMUnavailable)(
                f"{self._client.base_url}: {type(error).__name__} {error}".rstrip()
            ) from error
        code = response.status_code
        if code in (401, 403, 404):
            raise LLMForbidden(f"{response.request.url} answers {code}: {response.text[:300]}")
        if code in (408, 429) or code >= 500:
            kind = LLMBusy if code in (408, 429, 503, 529) else LLMUnavailable
            raise kind(f"{response.request.url} answers {code}", _retry_after(response))
        if code >= 400:
            raise LLMRejected(f"{code}: {response.text[:300]}")
        try:
            return response.json()
        except ValueError as error:
            raise LLMUnavailable(f"{response.request.url} does not answer with JSON") from error


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a back end is told of where and how to reach its model."""

    url: str
    model: str
    timeout_s: float
    max_connections: int


def _openai(endpoint: Endpoint) -> LanguageModel:
    return OpenAIClient(
        endpoint.url, endpoint.model, timeout_s=endpoint.timeout_s, max_connections=endpoint.max_connections
    )


def _vllm(endpoint: Endpoint) -> LanguageModel:
    from models.llm.vllm_engine import VllmEngine

    return VllmEngine(endpoint.model, timeout_s=endpoint.timeout_s, max_num_seqs=endpoint.max_connections)


BACKENDS: dict[str, Callable[[Endpoint], LanguageModel]] = {"openai": _openai, "vllm": _vllm}
"""LLM back ends by the name `FRESHET_LLM__BACKEND` takes; a new one is one file and one line here."""


def connect(backend: str, endpoint: Endpoint) -> LanguageModel:
    """The model behind `endpoint`; raises `KeyError` for a back end that is not in the table."""
    return BACKENDS[backend](endpoint)
