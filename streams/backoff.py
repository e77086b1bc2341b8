"""Waiting for a dependency to come back: growing, jittered pauses, and one shared pause for all the work of a lane.

Owns the retry of transient errors: how long, what is logged and counted, and that the lane counts as waiting. Must not
swallow poison or fatal errors: those pass through at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from streams.errors import Family, family
from streams.health import Health
from streams.metrics import Metrics

T = TypeVar("T")
log = logging.getLogger(__name__)

LEAST_S, MOST_S = 0.2, 15.0
_JITTER = (0.75, 1.25)
"""Workers that lost the same dependency do not all come back in the same millisecond."""


class Retries:
    """How long one caller waits after each failure in a row, and that others learn of it.

    The first failure waits about `least_s`; every further one without a success in between doubles that, up to
    `most_s`; an error that says when to come back (`retry_after_s`) waits so long instead, within the same bounds.
    """

    def __init__(
        self,
        lane: str,
        metrics: Metrics,
        health: Health | None = None,
        *,
        least_s: float = LEAST_S,
        most_s: float = MOST_S,
    ) -> None:
        self._lane, self._metrics, self._health = lane, metrics, health
        self._least_s, self._most_s = least_s, most_s
        self._delay_s = 0.0
        if health is not None:
            health.resume(lane, self)

    @property
    def active(self) -> bool:
        """Whether the last attempt failed."""
        return self._delay_s > 0

    def count(self, error: Exception) -> None:
        """Note one failed attempt in the metrics; raises `error` where trying again does not help."""
        if family(error) is not Family.TRANSIENT:
            raise error
        self._metrics.retries.labels(lane=self._lane, cause=type(error).__name__).inc()

    def failed(self, error: Exception) -> float:
        """The seconds to wait before the next attempt."""
        if not self._delay_s:
            log.warning("waiting for a dependency", extra={"lane": self._lane, "cause": repr(error)})
            if self._health is not None:
                self._health.wait(self._lane, self)
        wanted_s: float = getattr(error, "retry_after_s", None) or 2 * self._delay_s
        self._delay_s = min(self._most_s, max(self._least_s, wanted_s))
        return self._delay_s * random.uniform(*_JITTER)

    def succeeded(self) -> bool:
        """End the row of failures; whether there was one."""
        if not self._delay_s:
            return False
        log.info("the dependency is back", extra={"lane": self._lane})
        self._delay_s = 0.0
        if self._health is not None:
            self._health.resume(self._lane, self)
        return True


class Backoff(Retries):
    """`Retries` shared by many tasks of one event loop: while a dependency is away nobody hammers it, and a success of
    one ends the pause of all."""

    _until = 0.0

    async def persevere(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run `operation` until it succeeds or fails for good; only transient errors are tried again."""
        while True:
            await self._pause()
            try:
                result = await operation()
            except Exception as error:
                self.count(error)
                now = asyncio.get_running_loop().time()
                if now >= self._until:  # a dependency in trouble fails many at once; that is one failure
                    self._until = now + self.failed(error)
            else:
                self._until = 0.0
                self.succeeded()
                return result

    async def _pause(self) -> None:
        while (left := self._until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, 0.5))  # in slices: somebody's success ends the pause early
