"""The Faust lane on the real broker: what it commits, and when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError, GroupAuthorizationFailedError, IllegalStateError, UnknownError

from streams.consumers.faust_consumer import FaustConsumer
from streams.consumers.in_flight import Batcher, InFlightLimiter
from streams.kafka.consumer import Subscription, consumer_group
from streams.kafka.producer import KafkaProducer
from streams.kafka.record import SourceRecord
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.support.lane_tools import committed, make_topic, read_all, send_all, until


@pytest.fixture
def settings(kafka: str, topic_prefix: str) -> Settings:
    return Settings.load({}, kafka=kafka, topic_prefix=topic_prefix)


def numbered(n: int, first: int = 0) -> list[tuple[bytes, bytes]]:
    return [(b"k%d" % i, b"%d" % i) for i in range(first, first + n)]


async def filled(settings: Settings, name: str, records: int) -> str:
    """A new topic of one partition that holds so many records."""
    topic = f"{settings.topic_prefix}{name}"
    make_topic(settings.kafka.servers, topic)
    await asyncio.to_thread(send_all, settings, topic, numbered(records))
    return topic


async def nothing(records: Sequence[SourceRecord]) -> None:
    """What a lane does with records where that does not matter."""


def subscription(settings: Settings, topic: str, name: str = "lane") -> Subscription:
    return Subscription(name, consumer_group(settings, name), (topic,))


def batch_lane(
    settings: Settings, topic: str, work: Callable[[Sequence[SourceRecord]], Awaitable[None]], name: str = "lane"
) -> FaustConsumer:
    return FaustConsumer(
        subscription(settings, topic, name),
        Resources(settings),
        lambda finish, fail: Batcher(work, finish, fail, size=10, wait_s=0.05),
    )


def sliding_lane(settings: Settings, topic: str, work: Callable[[SourceRecord], Awaitable[None]]) -> FaustConsumer:
    return FaustConsumer(
        subscription(settings, topic),
        Resources(settings),
        lambda finish, fail: InFlightLimiter(work, finish, fail, size=50),
    )


async def test_reads_a_fresh_topic_from_record_0_and_commits_behind_the_last(settings: Settings) -> None:
    """Catches a lost first record: Faust commits past it, or pauses the partition under the first fetch."""
    topic = await filled(settings, "fresh", 100)
    seen: list[int] = []

    async def work(records: Sequence[SourceRecord]) -> None:
        seen.extend(record.offset for record in records)

    lane = batch_lane(settings, topic, work)
    await lane.start()
    await until(lambda: len(seen) >= 100, "100 records")
    await lane.stop()
    assert seen == list(range(100))
    assert committed(settings.kafka.servers, f"{settings.topic_prefix}freshet-v1-lane", topic) == 100


async def test_records_arrive_untouched(settings: Settings) -> None:
    """Catches a null value, a null key, a header or a timestamp that Faust decodes, drops or rounds."""
    topic = f"{settings.topic_prefix}untouched"
    make_topic(settings.kafka.servers, topic)
    producer = KafkaProducer(settings)
    for key, value, headers in ((b"k", None, []), (None, b"\xff\x00", [("h", b"1"), ("h", None)]), (b"", b"", [])):
        producer.send(topic, key, value, headers=headers, timestamp=1_700_000_000_123).result(10)
    producer.close()
    seen: list[SourceRecord] = []

    async def work(records: Sequence[SourceRecord]) -> None:
        seen.extend(records)

    lane = batch_lane(settings, topic, work)
    await lane.start()
    await until(lambda: len(seen) == 3, "3 records")
    await lane.stop()
    assert seen == await asyncio.to_thread(read_all, settings.kafka.servers, topic)
    assert seen[1].headers == (("h", b"1"), ("h", None))
    assert seen[0].timestamp == 1_700_000_000_123


async def test_members_that_come_and_go_lose_nothing(settings: Settings) -> None:
    """Catches records lost in a rebalance: fetched before it, in work during it, or skipped after it."""
    topic = f"{settings.topic_prefix}balanced"
    make_topic(settings.kafka.servers, topic, partitions=4)
    total = 1_500
    seen: Counter[tuple[int, int]] = Counter()

    async def work(record: SourceRecord) -> None:
        await asyncio.sleep(0.02 if record.offset % 50 else 0.5)
        seen[record.partition, record.offset] += 1

    first = sliding_lane(settings, topic, work)
    await first.start()
    lanes = [first]
    for step in range(3):
        await asyncio.to_thread(send_all, settings, topic, numbered(total // 3, step * total // 3))
        if step < 2:
            lanes.append(sliding_lane(settings, topic, work))
            await lanes[-1].start()
        await asyncio.sleep(1.0)
        if step == 1:
            await lanes.pop(0).stop()
    await until(lambda: len(seen) == total, f"{total} records", timeout_s=60)
    for lane in lanes:
        await lane.stop()
    ends = [
        committed(settings.kafka.servers, f"{settings.topic_prefix}freshet-v1-lane", topic, p) or 0 for p in range(4)
    ]
    assert sum(ends) == total
    assert sum(seen.values()) < 2 * total, "rebalances repeat what was in work, not everything"


async def test_a_lane_that_waits_stays_in_its_group(settings: Settings) -> None:
    """Catches a member that is expelled while the LLM is down: its work would start over elsewhere, for ever."""
    settings = settings.replace(session_timeout_s=2.0)
    topic = await filled(settings, "waiting", 700)
    began, go = [], asyncio.Event()

    async def work(record: SourceRecord) -> None:
        began.append(record.offset)
        await go.wait()

    lane = sliding_lane(settings, topic, work)
    await lane.start()
    await until(lambda: len(began) == 50, "a full window")
    await asyncio.sleep(5.0)
    assert began == list(range(50)), "expelled members read again, or the window has no bound"
    go.set()
    await until(lambda: len(began) == 700, "the rest")
    await lane.stop()
    assert began == list(range(700))


async def test_a_commit_that_kafka_refuses_for_now_is_made_later(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a worker that ends because its broker's disk is full for a moment, and a last commit nobody repeats."""
    topic = await filled(settings, "refused", 20)
    real = AIOKafkaConsumer.commit
    refused: list[object] = []

    async def commit(self: AIOKafkaConsumer, offsets: object = None) -> None:
        if len(refused) < 3:
            refused.append(offsets)
            raise (UnknownError, CommitFailedError, IllegalStateError)[len(refused) - 1]
        await real(self, offsets)

    monkeypatch.setattr(AIOKafkaConsumer, "commit", commit)

    lane = batch_lane(settings, topic, nothing)
    await lane.start()
    failed = asyncio.create_task(lane.wait_failed())
    group = f"{settings.topic_prefix}freshet-v1-lane"
    await until(lambda: committed(settings.kafka.servers, group, topic) == 20, "the commit to be repeated")
    assert len(refused) == 3
    assert not failed.done()
    failed.cancel()
    await lane.stop()


async def test_an_assignment_lost_while_rewinding_costs_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a worker that ends because a rebalance came between the committed offset and the seek to it."""
    topic = await filled(settings, "rewound", 20)
    seen: set[int] = set()

    async def work(records: Sequence[SourceRecord]) -> None:
        seen.update(record.offset for record in records)

    lane = batch_lane(settings, topic, work)
    await lane.start()
    await until(lambda: len(seen) == 20, "20 records")
    failed = asyncio.create_task(lane.wait_failed())
    assert lane._app is not None
    with monkeypatch.context() as patched:
        patched.setattr(
            AIOKafkaConsumer, "seek_to_committed", AsyncMock(side_effect=IllegalStateError("no assignment"))
        )
        await lane._app.consumer.rewind()
    await asyncio.to_thread(send_all, settings, topic, numbered(20, first=20))
    await until(lambda: len(seen) == 40, "20 records more")
    assert not failed.done()
    failed.cancel()
    await lane.stop()


async def test_a_commit_that_kafka_forbids_ends_the_lane(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a worker that goes on for ever where nothing it does is remembered."""
    topic = await filled(settings, "forbidden", 20)

    async def commit(self: AIOKafkaConsumer, offsets: object = None) -> None:
        raise GroupAuthorizationFailedError

    monkeypatch.setattr(AIOKafkaConsumer, "commit", commit)

    lane = batch_lane(settings, topic, nothing)
    await lane.start()
    assert isinstance(await asyncio.wait_for(lane.wait_failed(), 60), GroupAuthorizationFailedError)
    await lane.stop()


async def test_no_port_is_bound(settings: Settings) -> None:
    """Catches Faust's web server on 0.0.0.0:6066."""
    topic = f"{settings.topic_prefix}ports"
    make_topic(settings.kafka.servers, topic)
    before = listening()

    lane = batch_lane(settings, topic, nothing)
    await lane.start()
    await asyncio.sleep(1.5)
    assert listening() == before
    await lane.stop()


def listening() -> set[str]:
    """Inodes of this process's listening sockets."""
    own = set()
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            own.add(fd.readlink().name)
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found.add(fields[9])
    return found
