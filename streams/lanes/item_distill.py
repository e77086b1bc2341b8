"""The lane item-distill: what a language model knows about each item, and the vector that comes of it.

Owns decode → check → distil → publish knowledge → encode → publish features, many items at once and each key in order.
Must not know prompts. While the LLM is away the lane waits in its group and reads no further.
"""

from __future__ import annotations

import asyncio

from processors.distill import Distiller
from schemas.records import Item, ItemKnowledge
from streams.backoff import Backoff
from streams.errors import Family, family
from streams.faust_lane import FaustLane
from streams.lanes.base import Context
from streams.lanes.item_text import Deleted, read_item, tombstone
from streams.publish import Letter, Outgoing, Output, Publisher
from streams.source import SourceRecord
from streams.window import SlidingWindow

NAME = "item-distill"
# Records under way for each LLM turn: those beyond it wait for their key, for a turn, or for the broker.
IN_FLIGHT_PER_TURN = 4


class ItemDistill:
    """The lane's work on one record; all of its results are confirmed when `process` returns."""

    def __init__(self, context: Context, distiller: Distiller) -> None:
        self._context = context
        self._distiller = distiller
        self._turns = asyncio.Semaphore(context.settings.llm_concurrency)
        self._encoding = asyncio.Lock()
        self._llm = Backoff(NAME, context.metrics, most_s=30.0)
        self._kafka = Backoff(NAME, context.metrics)
        self._publisher = Publisher(context.producer, context.dead_letters(), self._kafka, NAME)

    async def process(self, record: SourceRecord) -> None:
        """Read, distil, publish; raises fatal errors only."""
        try:
            read = await self._kafka.persevere(lambda: asyncio.to_thread(read_item, self._context, record))
        except Exception as error:
            await self._dead_letter(record, "read", error)
            return
        if isinstance(read, Deleted):
            await self._delete(record, read.item_id)
            return
        try:
            knowledge = await self._distil(record, read)
        except Exception as error:
            await self._dead_letter(record, "distill", error)
            return
        await self._publish(record, read, knowledge)

    async def _distil(self, record: SourceRecord, item: Item) -> ItemKnowledge:
        async with self._turns:
            knowledge = await self._llm.persevere(
                lambda: self._distiller.distill(item, source_partition=record.partition, source_offset=record.offset)
            )
        metrics, cost = self._context.metrics, knowledge.provenance
        metrics.llm_calls.inc(cost.calls)
        metrics.llm_tokens.labels(direction="in").inc(cost.tokens_in)
        metrics.llm_tokens.labels(direction="out").inc(cost.tokens_out)
        return knowledge

    async def _publish(self, record: SourceRecord, item: Item, knowledge: ItemKnowledge) -> None:
        """Knowledge first: it is the truth, and vectors can be made from it again."""
        topics, key = self._context.topics, item.item_id.encode()
        value = self._context.codec.encode(knowledge, topics.item_knowledge)
        [first] = await self._publisher.publish([Output(record, topics.item_knowledge, key, value)])
        if isinstance(first, Letter):
            self._count(first)
            return
        async with self._encoding:  # one batch in torch at a time: two would only share the cores
            [features] = await asyncio.to_thread(self._context.embedder.knowledge, [(item, knowledge)])
        value = self._context.codec.encode(features, topics.item_features)
        output = Output(record, topics.item_features, key, value, event_time=item.event_time)
        [last] = await self._publisher.publish([output])
        self._count(last)

    async def _delete(self, record: SourceRecord, item_id: str) -> None:
        topics = self._context.topics
        gone = [tombstone(record, topic, item_id) for topic in (topics.item_knowledge, topics.item_features)]
        self._count((await self._publisher.publish(gone))[-1])

    async def _dead_letter(self, record: SourceRecord, step: str, error: Exception) -> None:
        if family(error) is not Family.POISON:
            raise error
        [letter] = await self._publisher.publish([Letter.of(record, f"{NAME}/{step}", error)])
        self._count(letter)

    def _count(self, one: Outgoing) -> None:
        metrics = self._context.metrics
        metrics.records.labels(lane=NAME, outcome=one.outcome).inc()
        if one.event_time:
            metrics.freshness.labels(lane=NAME).observe(max(0, self._context.clock() - one.event_time) / 1000)


def ItemDistillLane(context: Context) -> FaustLane:
    """The lane over Faust; loads the encoder before it reads."""
    size = IN_FLIGHT_PER_TURN * context.settings.llm_concurrency
    return FaustLane(
        NAME,
        context,
        context.topics.items,
        lambda finish, fail: SlidingWindow(ItemDistill(context, context.distiller).process, finish, fail, size=size),
        prepare=lambda: context.embedder,
    )
