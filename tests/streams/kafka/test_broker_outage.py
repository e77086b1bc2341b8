"""A broker that goes away and comes back: the lane waits in its place and loses nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

from freshet.records import Item
from local.stack.kafka import KafkaServer
from schemas.codec import Codec
from streams.lanes.table import LANES
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.support.fakes_encoder import FakeEncoder
from tests.support.lane_tools import committed, make_topics, read_all, send_all, until

NOW = 1_700_000_000_000
AWAY_S = 6.0


def items(first: int, count: int) -> list[tuple[bytes | None, bytes | None]]:
    codec = Codec()
    return [(b"i%d" % n, codec.encode(Item(f"i{n}", NOW + n, f"Thing {n}"))) for n in range(first, first + count)]


async def test_a_broker_restart_costs_time_and_nothing_else(tmp_path: Path) -> None:
    """Catches a worker that gives up, or acknowledges what it could not publish, when its broker restarts."""
    server = KafkaServer(Settings.load().home, folder=tmp_path / "kafka", durable=True)
    await asyncio.to_thread(server.start)
    try:
        settings = Settings.load({}, kafka=server.address, partitions=1)
        topics = await asyncio.to_thread(make_topics, settings)
        resources = Resources(settings, encoder=FakeEncoder())
        lane = LANES["item-text"].build(resources)
        await lane.start()
        failed = asyncio.create_task(lane.wait_failed())
        await asyncio.to_thread(send_all, settings, topics.items, items(0, 50))
        await until(lambda: len(read_all(server.address, topics.item_features)) >= 50, "the first 50")
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(AWAY_S)
        assert not failed.done(), failed
        await asyncio.to_thread(server.start)
        assert settings.kafka.servers == server.address
        await asyncio.to_thread(send_all, settings, topics.items, items(50, 50))
        await until(lambda: committed(server.address, "freshet-v1-item-text", topics.items) == 100, "the commit", 90)
        assert not failed.done(), failed
        failed.cancel()
        await lane.stop()
        await resources.close()
        features = await asyncio.to_thread(read_all, server.address, topics.item_features)
        assert {record.key for record in features} == {b"i%d" % n for n in range(100)}
    finally:
        await asyncio.to_thread(server.stop)
