"""The lane item-distill: what a language model knows about each item, and the vector that comes of it.

Owns decode → check → distill → encode → publish knowledge → publish features, many items at once and each key in order.
Must not know prompts, nor how calls are spared or limited. While the LLM is away or its budget spent, items that need
it wait in their place and those that do not pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from freshet.records import Item, ItemFeatures, ItemKnowledge
from models.llm.client import LLMUnavailable
from processors.items.centroids import CategoryCentroids, flagged
from streams.consumers.assignment import MakeInFlight
from streams.consumers.faust_consumer import FaustConsumer
from streams.consumers.in_flight import Fail, Finish, InFlightLimiter
from streams.consumers.micro_batch import MicroBatcher
from streams.errors import Family, family
from streams.kafka.consumer import Subscription
from streams.kafka.publish import DeadLetterOutput, Outgoing, Output, Publisher
from streams.kafka.record import SourceRecord
from streams.lanes.read_item import Deleted, read_item, tombstone
from streams.wiring.resources import Resources

NAME = "item-distill"
# Records under way for each LLM call: enough that calls never lack one while others wait for their key, for an answer
# to the same content, for the encoder or for the broker.
IN_FLIGHT_PER_CALL = 3
# Records that wait for the LLM beyond the limit, so that price changes behind them pass; a few kilobytes each.
PARKING = 1_000
_ENCODED_TOGETHER = 32


class ItemDistiller(Protocol):
    """Who knows about items: `processors.items.cached_distiller.CachedDistiller`."""

    async def known(
        self, item: Item, *, source_partition: int = -1, source_offset: int = -1
    ) -> ItemKnowledge | None: ...

    async def distill(self, item: Item, *, source_partition: int = -1, source_offset: int = -1) -> ItemKnowledge: ...

    async def remember(self, item: Item, knowledge: ItemKnowledge) -> None: ...


class ItemDistill:
    """The lane's work on one record; all of its results are confirmed when `process` returns.

    `park` is called when a record begins to wait for the LLM.
    """

    def __init__(self, resources: Resources, distiller: ItemDistiller) -> None:
        self.park: Callable[[], None] = lambda: None
        self._resources = resources
        self._distiller = distiller
        self._encoder: MicroBatcher[tuple[Item, ItemKnowledge], ItemFeatures] = MicroBatcher(
            self._encode, size=_ENCODED_TOGETHER
        )
        self._centroids = CategoryCentroids()
        self._llm = resources.backoff(NAME, most_s=30.0)
        self._redis = resources.backoff(NAME)
        self._kafka = resources.backoff(NAME)
        self._publisher = Publisher(resources.producer, resources.dead_letters(), self._kafka, NAME)

    async def process(self, record: SourceRecord) -> None:
        """Read, distill, publish; raises fatal errors only."""
        try:
            read = await self._kafka.persevere(lambda: asyncio.to_thread(read_item, self._resources, record))
        except Exception as error:
            await self._dead_letter(record, "read", error)
            return
        if isinstance(read, Deleted):
            await self._delete(record, read.item_id)
            return
        try:
            knowledge = await self._distill(record, read)
        except Exception as error:
            await self._dead_letter(record, "distill", error)
            return
        await self._publish(record, read, knowledge)

    async def _distill(self, record: SourceRecord, item: Item) -> ItemKnowledge:
        """What is known passes whatever the LLM does; a backing-off LLM holds back only who needs it."""
        source = {"source_partition": record.partition, "source_offset": record.offset}
        knowledge = await self._redis.persevere(lambda: self._distiller.known(item, **source))
        if knowledge is None:
            knowledge = await self._llm.persevere(lambda: self._ask(item, source))
        metrics, cost = self._resources.metrics, knowledge.provenance
        metrics.knowledge.labels(origin=cost.origin).inc()
        metrics.llm_calls.inc(cost.calls)
        metrics.llm_tokens.labels(direction="in").inc(cost.tokens_in)
        metrics.llm_tokens.labels(direction="out").inc(cost.tokens_out)
        return knowledge

    async def _ask(self, item: Item, source: dict[str, int]) -> ItemKnowledge:
        try:
            return await self._distiller.distill(item, **source)
        except LLMUnavailable:
            self.park()
            raise

    async def _publish(self, record: SourceRecord, item: Item, knowledge: ItemKnowledge) -> None:
        """Knowledge first: it is the truth, and vectors can be made from it again; the cache only what Kafka has."""
        topics, key = self._resources.topics, item.item_id.encode()
        features = await self._encoder.submit((item, knowledge))
        knowledge = flagged(self._centroids, item, knowledge, features)
        value = self._resources.codec.encode(knowledge, topics.item_knowledge)
        [first] = await self._publisher.publish([Output(record, topics.item_knowledge, key, value)])
        if isinstance(first, DeadLetterOutput):
            self._count(first)
            return
        try:
            await self._redis.persevere(lambda: self._distiller.remember(item, knowledge))
        except Exception as error:
            await self._dead_letter(record, "remember", error)
            return
        value = self._resources.codec.encode(features, topics.item_features)
        output = Output(record, topics.item_features, key, value, event_time=item.event_time)
        [last] = await self._publisher.publish([output])
        self._count(last)

    def _encode(self, pairs: Sequence[tuple[Item, ItemKnowledge]]) -> list[ItemFeatures]:
        return self._resources.embedder.knowledge(pairs)

    async def _delete(self, record: SourceRecord, item_id: str) -> None:
        topics = self._resources.topics
        gone = [tombstone(record, topic, item_id) for topic in (topics.item_knowledge, topics.item_features)]
        self._count((await self._publisher.publish(gone))[-1])

    async def _dead_letter(self, record: SourceRecord, step: str, error: Exception) -> None:
        if family(error) is not Family.POISON:
            raise error
        [dead_letter] = await self._publisher.publish([DeadLetterOutput.of(record, f"{NAME}/{step}", error)])
        self._count(dead_letter)

    def _count(self, one: Outgoing) -> None:
        metrics = self._resources.metrics
        metrics.records.labels(lane=NAME, outcome=one.outcome).inc()
        if one.event_time:
            metrics.freshness.labels(lane=NAME).observe(max(0, self._resources.clock() - one.event_time) / 1000)


def distill_work(resources: Resources) -> MakeInFlight:
    """How records become knowledge, and vectors of it: many at once, each key in order."""

    def limiter(finish: Finish, fail: Fail) -> InFlightLimiter:
        work = ItemDistill(resources, resources.cached_distiller)
        size = IN_FLIGHT_PER_CALL * resources.settings.llm.concurrency
        made = InFlightLimiter(work.process, finish, fail, size=size, parking=PARKING)
        work.park = made.park
        return made

    return limiter


def item_distill_lane(subscription: Subscription, resources: Resources) -> FaustConsumer:
    """The lane over Faust; loads the encoder before it reads."""
    return FaustConsumer(subscription, resources, distill_work(resources), prepare=lambda: resources.embedder)
