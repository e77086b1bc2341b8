"""The lane item-text: every item gets a vector from its text, at once.

Owns decode → check → encode in batches → publish. Must not ask a language model; `item-distill` replaces the vector
with the knowledge-enriched one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from freshet.records import Item
from streams.consumers.assignment import MakeInFlight
from streams.consumers.faust_consumer import FaustConsumer
from streams.consumers.in_flight import Batcher
from streams.errors import Family, family
from streams.kafka.consumer import Subscription
from streams.kafka.publish import DeadLetterOutput, Outgoing, Output, Publisher
from streams.kafka.record import SourceRecord
from streams.lanes.read_item import Deleted, read_item, tombstone
from streams.wiring.resources import Resources

NAME = "item-text"
# MiniLM on two cores encodes about 300 short texts a second; a batch takes a fraction of a second, and what piles up
# meanwhile is the next one.
BATCH_RECORDS = 64
WAIT_S = 0.02


class ItemText:
    """The lane's work on one batch; everything in it is published and confirmed when `process` returns."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._backoff = resources.backoff(NAME)
        self._publisher = Publisher(resources.producer, resources.dead_letters(), self._backoff, NAME)

    async def process(self, records: Sequence[SourceRecord]) -> None:
        """Read, encode, publish in the order of `records`; raises fatal errors only."""
        metrics = self._resources.metrics
        with metrics.batch_seconds.labels(lane=NAME).time():
            # Reading may ask the registry and encoding is torch: neither may hold up the loop and its heartbeats.
            outgoing = await self._backoff.persevere(lambda: asyncio.to_thread(self._make, records))
            published = await self._publisher.publish(outgoing)
        metrics.batch_records.labels(lane=NAME).observe(len(records))
        now = self._resources.clock()
        for one in published:
            metrics.records.labels(lane=NAME, outcome=one.outcome).inc()
            if one.event_time:
                metrics.freshness.labels(lane=NAME).observe(max(0, now - one.event_time) / 1000)

    def _make(self, records: Sequence[SourceRecord]) -> list[Outgoing]:
        topic = self._resources.topics.item_features
        made: dict[int, Outgoing] = {}
        items: list[tuple[int, Item]] = []
        for at, record in enumerate(records):
            try:
                read = read_item(self._resources, record)
            except Exception as error:
                if family(error) is not Family.POISON:
                    raise
                made[at] = DeadLetterOutput.of(record, f"{NAME}/read", error)
                continue
            if isinstance(read, Deleted):
                made[at] = tombstone(record, topic, read.item_id)
            else:
                items.append((at, read))
        sources = [(item, records[at].partition, records[at].offset) for at, item in items]
        for (at, item), features in zip(items, self._resources.embedder.text(sources), strict=True):
            value = self._resources.codec.encode(features, topic)
            made[at] = Output(records[at], topic, item.item_id.encode(), value, event_time=item.event_time)
        return [made[at] for at in range(len(records))]


def text_work(resources: Resources) -> MakeInFlight:
    """How records become vectors: batch by batch."""
    return lambda finish, fail: Batcher(ItemText(resources).process, finish, fail, size=BATCH_RECORDS, wait_s=WAIT_S)


def item_text_lane(subscription: Subscription, resources: Resources) -> FaustConsumer:
    """The lane over Faust; loads the encoder before it reads."""
    return FaustConsumer(subscription, resources, text_work(resources), prepare=lambda: resources.embedder)
