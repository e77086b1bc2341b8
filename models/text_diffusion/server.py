"""A text diffusion model behind an OpenAI-compatible server: SGLang with LLaDA2.x or SDAR, vLLM with DiffusionGemma.

Owns the calls of one batch, their number at once, and what a slow, busy or dead server costs: never more than the
deadline. Must not know items or vectors. Block-causal engines only append, so the slots stand after the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from models.llm.client import Completion, LLMBusy, LLMForbidden, LLMRejected, LLMTimeout, LLMUnavailable, OpenAIClient
from models.text_diffusion.prompt import TOKENS_PER_SLOT, Line, PromptLog, Written, messages, parse

PAUSE_S = 10.0
"""After a batch that a server answered nothing of, users are not kept waiting for it this long."""
GIVE_UP = 3
"""So many calls failed one after the other, the rest of the batch is not tried."""
TRIES = 3
"""Calls to a server that says it is busy, for one user."""
NOTHING = Written(degraded=True)

_log = logging.getLogger(__name__)


class ServerWriter:
    """See `prompt.Writer`; `clock` gives seconds and serves the deadline.

    A server says nothing of its confidence in a line, so each has 1. Wrong settings (401, 404) are logged and cost no
    more than a dead server: the fallback answers. One answer that is none costs one user.
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

    def write(self, logs: Sequence[PromptLog], *, slots: int, end: float | None) -> list[Written]:
        """See `Writer.write`."""
        now = self._clock()
        if not logs or now < self._away_until or (end is not None and now >= end):
            return [NOTHING] * len(logs)
        return asyncio.run(self._write(logs, slots, None if end is None else end - now))

    async def _write(self, logs: Sequence[PromptLog], slots: int, limit_s: float | None) -> list[Written]:
        """One call per log, `concurrency` at once, until the deadline; what is open by then is given up."""
        written = [NOTHING] * len(logs)
        queue = iter(enumerate(logs))
        failed, last = 0, "no answer by the deadline"
        away = True
        timeout_s = min(self._timeout_s, limit_s or self._timeout_s)
        async with OpenAIClient(
            self._url, self._model, timeout_s=timeout_s, max_connections=self._concurrency
        ) as client:

            async def work() -> None:
                nonlocal failed, last, away
                for place, log in queue:
                    if failed >= GIVE_UP:
                        return
                    try:
                        answer = await _ask(client, log, slots)
                    except (LLMUnavailable, LLMForbidden, LLMRejected) as error:
                        failed, last = failed + 1, f"{type(error).__name__}: {error}"
                        away = away and not isinstance(error, LLMRejected)
                    else:
                        failed, away = 0, False
                        written[place] = Written(tuple(Line(text) for text in parse(answer.text, slots)))

            workers = [asyncio.create_task(work()) for _ in range(min(self._concurrency, len(logs)))]
            _, open_ = await asyncio.wait(workers, timeout=limit_s)
            for worker in open_:
                worker.cancel()
            ended = await asyncio.gather(*workers, return_exceptions=True)
            self._model = self._model or client.name
        for error in ended:
            if isinstance(error, Exception):
                raise error  # a fault of this code: what a server does is dealt with above
        if missing := sum(one is NOTHING for one in written):
            _log.warning("the text diffusion server left users out", extra={"users": missing, "why": last})
        if away:
            self._away_until = self._clock() + PAUSE_S
        return written


async def _ask(client: OpenAIClient, log: PromptLog, slots: int) -> Completion:
    """The answer about one user; a busy server is asked again, and one that takes too long is not."""
    for attempt in range(1, TRIES):
        try:
            return await client.chat(messages(log, slots), max_tokens=TOKENS_PER_SLOT * slots)
        except LLMTimeout:
            raise
        except LLMBusy as busy:
            await asyncio.sleep(attempt if busy.retry_after_s is None else busy.retry_after_s)
    return await client.chat(messages(log, slots), max_tokens=TOKENS_PER_SLOT * slots)
