"""A worker's place in its version: made known, activated if it is the first, its components pinned, and every few
seconds a sign of life.

Owns when that happens. Must not know what the components are (`streams.versions.components`), nor what a version allows
(`store.versions`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress

from redis import RedisError

from models.llm.client import LLMUnavailable
from store.versions import Versions
from streams.identity import worker_name
from streams.lanes.lane import failure_of
from streams.versions.components import LLM, components, pinned
from streams.wiring.resources import Resources

NAME = "version"
BEAT_S = 10.0
_ASK_LLM_S = 5.0
log = logging.getLogger(__name__)


class Membership:
    """Started before the first lane, stopped after the last; see `streams.lanes.lane.Lane`.

    It fails with `VersionConflict` where a component is not the version's, and with `VersionRetiring` when the version
    is deleted under the worker.
    """

    name = NAME

    def __init__(self, names: Sequence[str], resources: Resources, *, beat_s: float = BEAT_S) -> None:
        """`names` are the lanes whose work is done here; `resources` must be a member's, or raises `ValueError`."""
        if not resources.member:
            raise ValueError("whoever joins a version pins its language model: Resources(settings, member=True)")
        self._lanes = list(names)
        self._resources = resources
        self._pins = resources.pins
        self._versions = Versions(resources.redis, resources.settings.key_prefix)
        self._version = resources.settings.version
        self._backoff = resources.backoff(NAME)
        self._beat_s = beat_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """1. pin what is known; 2. the language model, now if it answers, else before its first call; 3. live."""
        known = await asyncio.to_thread(components, self._lanes, self._resources)
        await self._backoff.persevere(lambda: self._join(known))
        if LLM in pinned(self._lanes):
            with suppress(LLMUnavailable, TimeoutError, RedisError):
                await asyncio.wait_for(self._resources.limited_llm.served_model(), _ASK_LLM_S)
        await self._backoff.persevere(self._beat)
        self._task = asyncio.create_task(self._live(), name=NAME)

    async def stop(self) -> None:
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        with suppress(RedisError):  # without it, it counts as alive for another minute
            await asyncio.to_thread(self._versions.leave, self._version, worker_name())

    async def wait_failed(self) -> BaseException:
        assert self._task is not None
        return await failure_of(self._task)

    async def _join(self, known: Mapping[str, str]) -> None:
        await self._pins.pin(known)
        if await asyncio.to_thread(self._versions.activate_if_none, self._version):
            log.info("activated the first version", extra={"version": self._version})

    async def _beat(self) -> None:
        about = {"lanes": self._lanes}
        while not await asyncio.to_thread(self._versions.beat, self._version, worker_name(), about):
            log.warning("Redis has lost its data: pinning anew", extra={"version": self._version})
            await self._join(self._pins.all)

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(self._beat_s)
            await self._backoff.persevere(self._beat)
