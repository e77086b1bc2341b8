"""Every hour, the dead letters of users who were erased since: a worker with `user-events` does it beside its lanes.

Owns when. What goes is `streams.jobs.erasure`'s. Not at each erasure: to remove one dead letter, the others of its
partition have to be written again.
"""

from __future__ import annotations

import asyncio
import logging

from streams.jobs.dead_letters.rewrite import Busy
from streams.jobs.erasure.dead_letter_sweep import sweep_owed
from streams.lanes.lane import failure_of
from streams.wiring.resources import Resources

NAME = "erasure-sweep"
log = logging.getLogger(__name__)

SWEEP_S = 3_600.0
"""Between two removals of the dead letters of erased users."""


class ErasureSweep:
    """See `streams.lanes.lane.Lane`; the service `erasure-sweep`."""

    name = NAME

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._backoff = resources.backoff(NAME)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=NAME)

    async def stop(self) -> None:
        """A sweep under way in its thread is left to its next run: what is owed stays noted until it is done."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def wait_failed(self) -> BaseException:
        assert self._task is not None
        return await failure_of(self._task)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                users = await self._backoff.persevere(lambda: asyncio.to_thread(sweep_owed, self._resources))
            except Busy:
                continue  # another worker, or an operator, is at it
            if users:
                log.info("removed the dead letters of erased users", extra={"lane": NAME, "users": users})
