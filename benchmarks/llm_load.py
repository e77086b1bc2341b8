"""What the LLM benchmarks share: calls recorded and thrown again, and the server's own counters.

Owns the recording model, the bare client and the reading of vLLM's metrics. Must not know a lane.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from models.llm.client import Completion, CompletionRequest, LanguageModel

_SETTLE_S = 0.5  # vLLM counts an answer just after it has given it


class Recorder:
    """A language model that passes calls on and remembers them; see `models.llm.client.LanguageModel`."""

    def __init__(self, llm: LanguageModel) -> None:
        self._llm = llm
        self.calls: list[CompletionRequest] = []
        self.tokens = 0
        self.under_way = 0
        self.most_under_way = 0

    @property
    def name(self) -> str:
        return self._llm.name

    async def complete(self, request: CompletionRequest) -> Completion:
        """See `LanguageModel.complete`."""
        self.calls.append(request)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            answer = await self._llm.complete(request)
        finally:
            self.under_way -= 1
        self.tokens += answer.tokens_in + answer.tokens_out
        return answer

    async def served_model(self) -> str:
        return await self._llm.served_model()

    async def aclose(self) -> None:
        """Release the model's connections."""
        await self._llm.aclose()


async def throw(calls: Sequence[CompletionRequest], llm: LanguageModel, concurrency: int) -> float:
    """Seconds to make `calls` in their order, `concurrency` at once, and look at no answer."""
    queue = iter(calls)

    async def work() -> None:
        for call in queue:
            await llm.complete(call)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
    return time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Counts:
    """A server's counters at one moment: finished requests, prompt tokens asked of its prefix cache and found there."""

    requests: float = 0.0
    queries: float = 0.0
    hits: float = 0.0

    def __sub__(self, other: Counts) -> Counts:
        return Counts(self.requests - other.requests, self.queries - other.queries, self.hits - other.hits)

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.requests + other.requests, self.queries + other.queries, self.hits + other.hits)


class VllmServer:
    """The side of a vLLM server that is not the OpenAI API; `base_url` ends with `/v1`."""

    def __init__(self, base_url: str) -> None:
        root = base_url.rstrip("/").removesuffix("/v1")
        self._client = httpx.AsyncClient(base_url=root, timeout=30, trust_env=False)

    async def counts(self) -> Counts | None:
        """Its counters now, or None where it is no vLLM."""
        await asyncio.sleep(_SETTLE_S)
        answer = await self._client.get("/metrics")
        if answer.status_code != 200 or "vllm:" not in answer.text:
            return None
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return Counts(
            sums.get("vllm:request_success_total", 0.0),
            sums.get("vllm:prefix_cache_queries_total", 0.0),
            sums.get("vllm:prefix_cache_hits_total", 0.0),
        )

    async def forget_prefixes(self) -> bool:
        """Empty its prefix cache; False where it offers that to nobody (it does with VLLM_SERVER_DEV_MODE=1)."""
        for _ in range(50):
            try:
                answer = await self._client.post("/reset_prefix_cache")
            except httpx.RemoteProtocolError:  # a server of another kind that hangs up on what it does not know
                return False
            if answer.status_code != 200:
                return False
            if not answer.content or answer.json().get("success", False):
                return True
            await asyncio.sleep(0.1)  # blocks of a request that has just ended are still held
        return False

    async def aclose(self) -> None:
        """Release the connections."""
        await self._client.aclose()
