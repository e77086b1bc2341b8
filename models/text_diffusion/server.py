"""A text diffusion model behind an OpenAI-compatible server: SGLang with LLaDA2.x or SDAR, vLLM with DiffusionGemma.

Owns the calls of one batch, their number at once, and what a slow, busy or dead server costs: never more than the
deadline. Must not know items or vectors. Block-causal engines only append, so the slots stand after the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from models.llm import LLMBusy, LLMForbidden, LLMRejected, LLMTimeout, LLMUnavailable, OpenAIClient
from models.text_diffusion.prompt import TOKENS_PER_SLOT, Line, Log, Written, messages, parse

PAUSE_S = 10.0
"""After a batch that a server answered nothing of, users are not kept waiting for it this long."""
TRIES = 3
"""Calls to a server that says it is busy, for one user."""
NOTHING = Written(degraded=True)

_log = logging.getLogger(__name__)


class ServerWriter:
    """See `prompt.Writer`; `clock` gives seconds and serves the deadline.

    A server says nothing of its confidence in a line, so each has 1. Wrong settings (401, 404) are logged and cost no
    more than a dead server: the fallback answers.
    """

    def __init__(
        self,
        url: str,
        model: str = "",
        *,
        concurrency: int = 16,
        timeout_s: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._model = model
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._clock = clock
        self._away_until = float("-inf")

    @property
    def name(self) -> str:
        """The model's name; "unknown" until a server without a configured one has been asked."""
        return self._model or "unknown"

    def write(self, logs: Sequence[Log], *, slots: int, end: float | None) -> list[Written]:
        """See `Writer.write`."""
        now = self._clock()
        if not logs or now < self._away_until or (end is not None and now >= end):
            return [NOTHING] * len(logs)
        written = asyncio.run(self._write(logs, slots, None if end is None else end - now))
        if all(one is NOTHING for one in written):
            self._away_until = self._clock() + PAUSE_S
        return written

    async def _write(self, logs: Sequence[Log], slots: int, limit_s: float | None) -> list[Written]:
        """One call per log, `concurrency` at once; what is open at the deadline or when the server goes is given up.

        Workers take logs from one queue, so that after the first refused connection nobody asks again.
        """
        written = [NOTHING] * len(logs)
        queue = iter(enumerate(logs))
        timeout_s = min(self._timeout_s, limit_s or self._timeout_s)
        async with OpenAIClient(
            self._url, self._model, timeout_s=timeout_s, max_connections=self._concurrency
        ) as client:

            async def work() -> None:
                for place, log in queue:
                    written[place] = await _ask(client, log, slots)

            workers = [asyncio.create_task(work()) for _ in range(min(self._concurrency, len(logs)))]
            _, open_ = await asyncio.wait(workers, timeout=limit_s, return_when=asyncio.FIRST_EXCEPTION)
            for worker in open_:
                worker.cancel()
            ended = await asyncio.gather(*workers, return_exceptions=True)
            self._model = self._model or client.name
        for error in ended:
            if isinstance(error, LLMUnavailable | LLMForbidden):
                _log.warning("the text diffusion server does not answer", extra={"why": str(error)})
                break
            if isinstance(error, Exception):
                raise error
        return written


async def _ask(client: OpenAIClient, log: Log, slots: int) -> Written:
    """One user's lines; raises `LLMUnavailable` or `LLMForbidden` where asking for others is of no use either."""
    for attempt in range(1, TRIES + 1):
        try:
            answer = await client.chat(messages(log, slots), max_tokens=TOKENS_PER_SLOT * slots)
        except LLMTimeout:
            return NOTHING
        except LLMBusy as busy:
            if attempt < TRIES:
                await asyncio.sleep(attempt if busy.retry_after_s is None else busy.retry_after_s)
        except LLMRejected as error:
            _log.warning("the text diffusion server refuses a request", extra={"why": str(error)})
            return NOTHING
        else:
            return Written(tuple(Line(text) for text in parse(answer.text, slots)))
    return NOTHING
