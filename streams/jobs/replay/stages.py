"""The work of each stage on records: a lane's own, or queueing users.

Owns which work a stage's name means. Must not read, nor say what is done (`streams.consumers.assignment`
does).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from store.refresh_queue import RefreshPolicy, RefreshQueue
from streams.consumers.assignment import MakeInFlight
from streams.consumers.in_flight import Batcher, Fail, Finish
from streams.jobs.replay.plan import EVENTS, Stage
from streams.kafka.record import SourceRecord
from streams.lanes.table import LANES
from streams.wiring.resources import Resources

_EVENTS_TOGETHER = 5_000
_WAIT_S = 0.1


class UserEnqueuer:
    """Queues users for a refresh in the version of `resources`; waits while Redis is away."""

    def __init__(self, resources: Resources) -> None:
        settings = resources.settings
        policy = RefreshPolicy.of(settings.refresh)
        self._queue = RefreshQueue(resources.redis, settings.version, settings.key_prefix, policy=policy)
        self._backoff = resources.backoff("replay")

    async def enqueue(self, user_ids: Sequence[str]) -> int:
        """Queue those of `user_ids` that have a history; answers how many."""
        return await self._backoff.persevere(lambda: asyncio.to_thread(self._queue.enqueue, user_ids))

    async def of_records(self, records: Sequence[SourceRecord]) -> None:
        """The users of these events; who was erased has no history, and a key that names nobody queues nobody."""
        keys = {record.key for record in records if record.key and record.value is not None}
        await self.enqueue(named(keys))


def named(keys: set[bytes] | frozenset[bytes]) -> list[str]:
    """The ids among `keys`, in an order that is the same each time."""
    found = []
    for key in sorted(keys):
        try:
            found.append(key.decode())
        except UnicodeDecodeError:
            continue
    return found


def stage_work(stage: Stage, resources: Resources) -> MakeInFlight:
    """How the records of a stage over a topic are worked on."""
    if stage.name != EVENTS:
        return LANES[stage.name].replayed(resources)
    enqueuer = UserEnqueuer(resources)

    def batcher(finish: Finish, fail: Fail) -> Batcher:
        return Batcher(enqueuer.of_records, finish, fail, size=_EVENTS_TOGETHER, wait_s=_WAIT_S)

    return batcher
