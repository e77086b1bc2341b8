"""Waiting for a dependency to come back: one shared, growing, jittered pause for everyone who needs it.

Owns the retry of transient errors. Must not swallow poison or fatal errors: those pass through at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from streams.errors import Family, family
from streams.metrics import Metrics

T = TypeVar("T")
log = logging.getLogger(__name__)


class Backoff:
    """A pause shared by all the work of one lane: while a dependency is away, nobody hammers it.

    The first failure waits about `least_s`; every further one without a success in between doubles that, up to
    `most_s`; one that says when to come back (`retry_after_s`) waits so long instead, within the same bounds. A success
    ends the pause for all.
    """

    def __init__(self, lane: str, metrics: Metrics, *, least_s: float = 0.2, most_s: float = 15.0) -> None:
        self._lane = lane
        self._metrics = metrics
        self._least_s = least_s
        self._most_s = most_s
        self._delay_s = 0.0
        self._until = 0.0
        metrics.backing_off.labels(lane=lane).set(0)

    @property
    def active(self) -> bool:
        """Whether the last attempt of anyone failed."""
        return self._delay_s > 0

    async def persevere(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run `operation` until it succeeds or fails for good; only transient errors are tried again."""
        while True:
            await self._pause()
            try:
                result = await operation()
            except Exception as error:
                if family(error) is not Family.TRANSIENT:
                    raise
                self._failed(error)
            else:
                self._succeeded()
                return result

    async def _pause(self) -> None:
        while (left := self._until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, 0.5))  # in slices: somebody's success ends the pause early

    def _failed(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        self._metrics.retries.labels(lane=self._lane, cause=type(error).__name__).inc()
        if now < self._until:
            return  # a dependency in trouble fails many at once; that is one failure
        if not self._delay_s:
            log.warning("waiting for a dependency", extra={"lane": self._lane, "cause": repr(error)})
            self._metrics.backing_off.labels(lane=self._lane).set(1)
        asked_s: float = getattr(error, "retry_after_s", None) or 2 * self._delay_s
        self._delay_s = min(self._most_s, max(self._least_s, asked_s))
        self._until = now + self._delay_s * random.uniform(0.75, 1.25)

    def _succeeded(self) -> None:
        if self._delay_s:
            log.info("the dependency is back", extra={"lane": self._lane})
            self._metrics.backing_off.labels(lane=self._lane).set(0)
        self._delay_s = self._until = 0.0
