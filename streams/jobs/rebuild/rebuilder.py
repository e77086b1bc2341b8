"""Fills an empty or half-lost Redis for one version from the compacted topics and `user-events`.

Owns the order: 1. the version is made known, and activated if none is active; 2. who was erased; 3. knowledge (and
with it the cache of the language model's answers), item vectors, user features, by the sink's own work; 4. histories,
by the lane's own work, without what was erased; 5. users whose features do not know their newest event are queued. Each
step may run beside live workers and again: newer wins. Must not send anything to Kafka: what cannot be read has its
dead letter already, and is counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from freshet.connect import keys_for
from freshet.layout import Keys
from store.erasure_watermarks import Erasures
from store.histories import History, HistoryStore
from store.refresh_queue import RefreshPolicy, RefreshQueue
from store.scan import headers
from store.versions import Versions
from streams.consumers.batch_consumer import BATCH_RECORDS
from streams.identity import worker_name
from streams.jobs.rebuild.erased import ErasedUsers
from streams.jobs.replay.replay_feed import Rate
from streams.kafka.batch import Batch, Handler, Message
from streams.kafka.erasure_notices import read_erasures
from streams.kafka.ranges import Range, RangeReader
from streams.lanes.sink import SinkHandler
from streams.lanes.user_events import UserEventsHandler
from streams.wiring.resources import Resources

T = TypeVar("T")
_POLL_S = 0.5
_USERS = 500
Progress = Callable[[str, int, int], None]
"""Called with a stage's name, how much of it is done, and how much there is."""
ERASURES, HISTORIES, DUE = "erasures", "histories", "due users"


@dataclass
class Rebuilt:
    """What became of it: records read by topic, records refused by reason, users queued for a refresh."""

    version: str
    activated: bool = False
    read: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    due: int = 0
    stopped: bool = False


class Rebuilder:
    """One rebuild of the version of `resources`."""

    def __init__(
        self, resources: Resources, *, rate: float = 0.0, progress: Progress = lambda _name, _done, _all: None
    ) -> None:
        self._resources = resources
        self._backoff = resources.backoff("rebuild")
        self._rate = Rate(rate)
        self._progress = progress
        self._versions = Versions(resources.redis, resources.settings.key_prefix)
        self._keys: Keys = keys_for(resources.redis, resources.settings.key_prefix)
        self._done = Rebuilt(resources.settings.version)

    async def run(self, stop: asyncio.Event) -> Rebuilt:
        """Do it all, or until `stop` is set. Waits while Redis is away; raises `NoTopic`, `KafkaException`."""
        resources, done = self._resources, self._done
        topics, version = resources.topics, resources.settings.version
        await self._redis(lambda: self._versions.create(version, by=worker_name()))
        done.activated = await self._redis(lambda: self._versions.activate_if_none(version))
        timestamps = await asyncio.to_thread(read_erasures, resources.settings, resources.codec)
        await self._redis(lambda: Erasures(resources.redis, resources.settings.key_prefix).restore(timestamps))
        sink = SinkHandler(resources)
        for topic in (topics.item_knowledge, topics.item_features, topics.user_features):
            await self._topic(topic, topic, sink, Batch.of, stop)
        erased = ErasedUsers()
        await self._read(ERASURES, topics.user_events, lambda messages: _at_once(erased.note, messages), stop)
        events = UserEventsHandler(resources, replaying=True)
        await self._topic(HISTORIES, topics.user_events, events, erased.standing, stop)
        await self._enqueue_stale(stop)
        done.stopped = stop.is_set()
        return done

    async def _topic(
        self,
        stage: str,
        topic: str,
        handler: Handler,
        batch_of: Callable[[Sequence[Message]], Batch],
        stop: asyncio.Event,
    ) -> None:
        async def write(messages: Sequence[Message]) -> None:
            batch = batch_of(messages)
            if not batch.messages:
                return
            rejected = await self._backoff.persevere(lambda: asyncio.to_thread(handler.write, batch))
            self._done.refused.update(str(one.reason) for one in rejected)

        self._done.read[topic] += await self._read(stage, topic, write, stop)

    async def _read(
        self,
        stage: str,
        topic: str,
        work: Callable[[Sequence[Message]], Awaitable[None]],
        stop: asyncio.Event,
    ) -> int:
        """Give every record of `topic` up to its present end to `work`; answers how many."""
        size = BATCH_RECORDS
        read = 0
        with RangeReader(self._resources.settings) as reader:
            ranges: list[Range] = await asyncio.to_thread(reader.find, topic)
            total = sum(map(len, ranges))
            self._progress(stage, 0, total)
            reader.begin(ranges)
            while reader.open and not stop.is_set():
                messages = await asyncio.to_thread(reader.poll, size, _POLL_S)
                if messages:
                    await self._rate.spend(len(messages))
                    await work(messages)
                    read += len(messages)
                    self._progress(stage, reader.passed, total)
        self._progress(stage, total, total)
        return read

    async def _enqueue_stale(self, stop: asyncio.Event) -> None:
        """A worker that died with Redis may have left users unrefreshed: those with events their features lack."""
        settings = self._resources.settings
        store = HistoryStore(self._resources.redis, settings.key_prefix)
        due = RefreshQueue(
            self._resources.redis, settings.version, settings.key_prefix, policy=RefreshPolicy.of(settings.refresh)
        )
        pages, seen = store.scan_users(), 0
        while not stop.is_set() and (page := await asyncio.to_thread(next, pages, None)) is not None:
            for start in range(0, len(page), _USERS):
                users = page[start : start + _USERS]
                histories = await self._redis(lambda users=users: store.load(users))  # type: ignore[misc]
                behind = await self._redis(lambda histories=histories: self._behind(histories))  # type: ignore[misc]
                self._done.due += await self._redis(lambda behind=behind: due.enqueue(behind)) if behind else 0  # type: ignore[misc]
            seen += len(page)
            self._progress(DUE, seen, seen)

    def _behind(self, histories: Sequence[History]) -> list[str]:
        version = self._resources.settings.version
        known = headers(self._resources.redis, [self._keys.user(version, one.user_id) for one in histories])
        return [
            one.user_id
            for one, header in zip(histories, known, strict=True)
            if one.event_times and (header is None or header.event_time < one.event_times[-1])
        ]

    async def _redis(self, call: Callable[[], T]) -> T:
        return await self._backoff.persevere(lambda: asyncio.to_thread(call))


async def _at_once(note: Callable[[Sequence[Message]], None], messages: Sequence[Message]) -> None:
    note(messages)
