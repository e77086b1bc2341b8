"""item-distill on the real broker and Redis: an endpoint that is killed under load, and updates that cost no call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from freshet.records import Item, ItemFeatures, ItemKnowledge, ItemTier
from schemas.codec import Codec
from streams.kafka.topics import Topics
from streams.lanes.table import LANES
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.support.fakes_encoder import FakeEncoder
from tests.support.fakes_llm import FakeLlmServer
from tests.support.lane_tools import committed, make_topics, read_all, send_all, until
from tests.support.loopback_llm import LoopbackLlm

NOW = 1_700_000_000_000
AWAY_S = 6.0
CODEC = Codec()


def catalogue(first: int, count: int) -> list[Item]:
    return [Item(f"i{n}", NOW + n, f"Thing {n}", price=1.0) for n in range(first, first + count)]


async def send(settings: Settings, items: list[Item]) -> None:
    records: list[tuple[bytes | None, bytes | None]] = [(i.item_id.encode(), CODEC.encode(i)) for i in items]
    await asyncio.to_thread(send_all, settings, Topics(settings).items, records)


@asynccontextmanager
async def running(settings: Settings, *names: str) -> AsyncIterator[Resources]:
    """Lanes in this process; fails where one of them fails."""
    resources = Resources(settings, encoder=FakeEncoder())
    lanes = [LANES[name].build(resources) for name in names]
    for lane in lanes:
        await lane.start()
    failures = [asyncio.create_task(lane.wait_failed()) for lane in lanes]
    try:
        yield resources
        assert not any(failure.done() for failure in failures), failures
    finally:
        for failure in failures:
            failure.cancel()
        for lane in lanes:
            await lane.stop()
        await resources.close()


def knowledge(settings: Settings) -> dict[str, ItemKnowledge]:
    """The newest knowledge of each item."""
    records = read_all(settings.kafka.servers, Topics(settings).item_knowledge)
    decoded = [CODEC.decode(ItemKnowledge, record.value) for record in records if record.value]
    return {one.item_id: one for one in decoded}


def text_tier(settings: Settings) -> set[str]:
    records = read_all(settings.kafka.servers, Topics(settings).item_features)
    decoded = [CODEC.decode(ItemFeatures, record.value) for record in records if record.value]
    return {one.item_id for one in decoded if one.tier == ItemTier.TEXT}


def acknowledged(settings: Settings, count: int) -> bool:
    group = f"{settings.topic_prefix}freshet-v1-item-distill"
    return (committed(settings.kafka.servers, group, Topics(settings).items) or 0) == count


@pytest.mark.timeout(300)
async def test_an_endpoint_killed_under_load_costs_time_and_nothing_else(
    kafka: str, valkey: str, topic_prefix: str, tmp_path: Path
) -> None:
    """Catches items lost or dead-lettered in an outage, a text tier that waits for it, and a lane that stays asleep."""
    llm = LoopbackLlm(tmp_path, delay_s=0.1)
    settings = Settings.load(
        {}, kafka=kafka, redis=valkey, topic_prefix=topic_prefix, llm=llm.url, partitions=1, llm_concurrency=4
    )
    topics = await asyncio.to_thread(make_topics, settings)
    await asyncio.to_thread(llm.start)
    try:
        async with running(settings, "item-text", "item-distill"):
            await send(settings, catalogue(0, 60))
            await until(lambda: len(knowledge(settings)) >= 8, "the first knowledge", 60)
            await asyncio.to_thread(llm.stop)
            before = len(await asyncio.to_thread(knowledge, settings))
            assert before < 60, "the outage must come under load"
            await send(settings, catalogue(60, 40))
            await until(lambda: len(text_tier(settings)) == 100, "the text tier during the outage", 60)
            await asyncio.sleep(AWAY_S)
            # What was answered just before may still have been on its way; nothing new can come.
            assert len(await asyncio.to_thread(knowledge, settings)) <= before + 4 * 3
            await asyncio.to_thread(llm.start)
            await until(lambda: len(knowledge(settings)) == 100, "all knowledge after the outage", 90)
            await until(lambda: acknowledged(settings, 100), "the commit", 30)
    finally:
        await asyncio.to_thread(llm.stop)
    assert {one.provenance.origin for one in (await asyncio.to_thread(knowledge, settings)).values()} == {"fresh"}
    assert await asyncio.to_thread(read_all, kafka, topics.dead_letters(topics.items)) == []


@pytest.mark.timeout(300)
async def test_unchanged_and_price_only_updates_cost_no_call_also_after_redis_was_emptied(
    kafka: str, valkey: str, topic_prefix: str
) -> None:
    """Catches tokens spent on what is known: on a resend, on a new price, and on all of it when Redis was lost."""
    with FakeLlmServer() as llm, redis.Redis.from_url(valkey) as client:
        settings = Settings.load({}, kafka=kafka, redis=valkey, topic_prefix=topic_prefix, llm=llm.url, partitions=1)
        await asyncio.to_thread(make_topics, settings)
        items = catalogue(0, 20)
        async with running(settings, "item-distill"):
            await send(settings, items)
            await until(lambda: acknowledged(settings, 20), "the first distillation", 60)
            calls = llm.served
            assert calls >= 20
            await send(settings, items)
            await send(settings, [replace(one, price=2.0, event_time=one.event_time + 1_000) for one in items])
            await until(lambda: acknowledged(settings, 60), "unchanged items and new prices", 60)
            assert llm.served == calls
        after = await asyncio.to_thread(knowledge, settings)
        assert {(one.provenance.origin, one.provenance.calls) for one in after.values()} == {("cache", 0)}
        assert {one.event_time for one in after.values()} == {NOW + n + 1_000 for n in range(20)}

        client.flushall()
        async with running(settings, "sink"):
            await until(lambda: len(client.keys("f:kc:*")) == 20, "the cache from the topic", 60)
        async with running(settings, "item-distill"):
            await send(settings, [replace(one, price=3.0, event_time=one.event_time + 2_000) for one in items])
            await until(lambda: acknowledged(settings, 80), "new prices after the loss", 60)
        assert llm.served == calls
        # A new recipe inside the version changes nothing; a new version with the same one costs nothing either.
        async with running(settings.replace(llm_model="another"), "item-distill"):
            await send(settings, [replace(one, price=4.0, event_time=one.event_time + 3_000) for one in items])
            await until(lambda: acknowledged(settings, 100), "new prices under a new model", 60)
        assert llm.served == calls


@pytest.mark.timeout(300)
async def test_a_spent_budget_puts_items_off_and_drops_nothing(kafka: str, valkey: str, topic_prefix: str) -> None:
    """Catches a budget that is not kept, one that dead-letters, and one that starts anew with the worker."""
    with FakeLlmServer() as llm, redis.Redis.from_url(valkey) as client:
        # A call costs 150 tokens by the fake's count; its estimate is larger, and makes room again as it settles.
        settings = Settings.load(
            {},
            kafka=kafka,
            redis=valkey,
            topic_prefix=topic_prefix,
            llm=llm.url,
            partitions=1,
            llm_tokens_per_hour=6_000,
            llm_concurrency=2,
        )
        topics = await asyncio.to_thread(make_topics, settings)
        await send(settings, catalogue(0, 60))
        async with running(settings, "item-distill") as resources:
            await until(lambda: resources.metrics.llm_deferrals._value.get() > 0, "a deferral", 60)
        spent, served = int(client.hget("f:budget", "spent") or 0), llm.served
        assert 0 < spent <= 6_000
        assert 0 < served <= 40
        async with running(settings, "item-distill"):
            await asyncio.sleep(3.0)
        assert int(client.hget("f:budget", "spent") or 0) <= 6_000
        client.delete("f:budget-held")  # of calls the stop has cancelled
        client.hincrby("f:budget", "hour", -1)  # the next hour
        async with running(settings.replace(llm_tokens_per_hour=1_000_000), "item-distill"):
            await until(lambda: len(knowledge(settings)) == 60, "the rest in the next hour", 90)
        assert await asyncio.to_thread(read_all, kafka, topics.dead_letters(topics.items)) == []
