"""The work of each stage on records: the lanes' own, or marking users due.

Owns the table from a stage's name to its window. Must not read, nor say what is done (`streams.consumers.assignment`
does).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from store.refresh_queue import RefreshPolicy, RefreshQueue
from streams.backoff import Backoff
from streams.consumers.assignment import MakeInFlight
from streams.consumers.in_flight import Batcher, Fail, Finish
from streams.jobs.replay.plan import EVENTS
from streams.kafka.record import SourceRecord
from streams.lanes.item_distill import distill_window
from streams.lanes.item_text import text_window
from streams.wiring.resources import Resources

_EVENTS_TOGETHER = 5_000
_WAIT_S = 0.1


class UserMarker:
    """Makes users due in the version of `resources`; perseveres while Redis is away."""

    def __init__(self, resources: Resources) -> None:
        settings = resources.settings
        policy = RefreshPolicy.of(settings)
        self._due = RefreshQueue(resources.redis, settings.version, settings.key_prefix, policy=policy)
        self._backoff = Backoff("replay", resources.metrics)

    async def mark(self, user_ids: Sequence[str]) -> int:
        """Those of `user_ids` that have a history are due afterwards; answers how many."""
        return await self._backoff.persevere(lambda: asyncio.to_thread(self._due.mark, user_ids))

    async def of_records(self, records: Sequence[SourceRecord]) -> None:
        """The users of these events; one who erased has no history, and a key that names nobody marks nobody."""
        keys = {record.key for record in records if record.key and record.value is not None}
        await self.mark(named(keys))


def named(keys: set[bytes] | frozenset[bytes]) -> list[str]:
    """The ids among `keys`, in an order that is the same each time."""
    found = []
    for key in sorted(keys):
        try:
            found.append(key.decode())
        except UnicodeDecodeError:
            continue
    return found


def _events_window(resources: Resources) -> MakeInFlight:
    marker = UserMarker(resources)

    def window(finish: Finish, fail: Fail) -> Batcher:
        return Batcher(marker.of_records, finish, fail, size=_EVENTS_TOGETHER, wait_s=_WAIT_S)

    return window


WINDOWS: dict[str, Callable[[Resources], MakeInFlight]] = {
    "item-text": text_window,
    "item-distill": distill_window,
    EVENTS: _events_window,
}
"""The window in which each stage over a topic works."""
