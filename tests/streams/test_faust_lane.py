"""The Faust lane on the real broker: what it commits, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from freshet.settings import Settings
from streams.faust_lane import FaustLane
from streams.lanes.base import Context
from streams.source import SourceRecord
from streams.window import BatchWindow, SlidingWindow
from tests.streams.lane_tools import committed, make_topic, send_all, until


@pytest.fixture
def settings(kafka: str, topic_prefix: str) -> Settings:
    return Settings.load({}, kafka=kafka, topic_prefix=topic_prefix)


def numbered(n: int, first: int = 0) -> list[tuple[bytes, bytes]]:
    return [(b"k%d" % i, b"%d" % i) for i in range(first, first + n)]


def batch_lane(
    settings: Settings, topic: str, work: Callable[[Sequence[SourceRecord]], Awaitable[None]], name: str = "lane"
) -> FaustLane:
    return FaustLane(
        name, Context(settings), topic, lambda finish, fail: BatchWindow(work, finish, fail, size=10, wait_s=0.05)
    )


def sliding_lane(settings: Settings, topic: str, work: Callable[[SourceRecord], Awaitable[None]]) -> FaustLane:
    return FaustLane("lane", Context(settings), topic, lambda finish, fail: SlidingWindow(work, finish, fail, size=50))


async def test_reads_a_fresh_topic_from_record_0_and_commits_behind_the_last(settings: Settings) -> None:
    """Catches a lost first record: Faust commits past it, or pauses the partition under the first fetch."""
    topic = f"{settings.topic_prefix}fresh"
    make_topic(settings.kafka, topic)
    await asyncio.to_thread(send_all, settings, topic, numbered(100))
    seen: list[int] = []

    async def work(records: Sequence[SourceRecord]) -> None:
        seen.extend(record.offset for record in records)

    lane = batch_lane(settings, topic, work)
    await lane.start()
    await until(lambda: len(seen) >= 100, "100 records")
    await lane.stop()
    assert seen == list(range(100))
    assert committed(settings.kafka, f"{settings.topic_prefix}freshet-lane", topic) == 100


async def test_a_record_in_work_holds_back_the_commit_of_everything_after_it(settings: Settings) -> None:
    """Catches loss path 1 (the commit rule off by one): 1..49 are done, 0 is not, so nothing may be committed."""
    topic = f"{settings.topic_prefix}held"
    make_topic(settings.kafka, topic)
    await asyncio.to_thread(send_all, settings, topic, numbered(50))
    seen: list[int] = []
    done: list[int] = []
    stuck = {0}

    async def work(record: SourceRecord) -> None:
        seen.append(record.offset)
        if record.offset in stuck:
            await asyncio.sleep(3600)
        done.append(record.offset)

    group = f"{settings.topic_prefix}freshet-lane"
    lane = sliding_lane(settings, topic, work)
    await lane.start()
    await until(lambda: len(done) == 49, "49 records")
    await asyncio.sleep(2.5)  # two commit intervals
    assert committed(settings.kafka, group, topic) is None
    await lane.stop()
    assert committed(settings.kafka, group, topic) is None

    seen.clear()
    stuck.clear()
    stuck.add(31)
    lane = sliding_lane(settings, topic, work)
    await lane.start()
    await until(lambda: len(seen) == 50, "50 records again")
    await until(lambda: committed(settings.kafka, group, topic) == 31, "the commit of 31")
    await lane.stop()
    assert sorted(seen) == list(range(50))

    seen.clear()
    stuck.clear()
    lane = sliding_lane(settings, topic, work)
    await lane.start()
    await until(lambda: committed(settings.kafka, group, topic) == 50, "the commit of 50")
    await lane.stop()
    assert sorted(seen) == list(range(31, 50))
