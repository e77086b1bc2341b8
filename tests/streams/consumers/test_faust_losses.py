"""The five ways a Faust agent loses records (and a sixth found here), each tried on our lane with the real broker.

The first is also shown on Faust's own code: when that test fails, Faust has been mended and ours can go.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from faust.transport.consumer import Consumer
from faust.types import TP
from intervaltree import IntervalTree

from streams.consumers.faust_consumer import LaneConsumer
from streams.kafka.record import SourceRecord
from streams.settings import Settings
from tests.streams.consumers.test_faust_consumer import batch_lane, numbered, sliding_lane
from tests.support.lane_tools import committed, make_topic, send_all, until

PLACE = TP("t", 0)


@pytest.fixture
def settings(kafka: str, topic_prefix: str) -> Settings:
    return Settings.load({}, kafka=kafka, topic_prefix=topic_prefix)


def test_fausts_own_rule_commits_past_an_unfinished_record() -> None:
    """Path 1, as released: committed 31, acked 32 and 33, and it commits 34: record 31 is gone."""
    faust: Any = SimpleNamespace(
        _acked={PLACE: [32, 33]},
        _acked_index=defaultdict(set),
        _gap=defaultdict(IntervalTree),
        _committed_offset={PLACE: 31},
    )
    assert Consumer._new_offset(faust, PLACE) == 34


@pytest.mark.parametrize(
    ("positions", "last", "expected"),
    [({}, 31, {}), ({("t", 0): 31}, 31, {}), ({("t", 0): 32}, 31, {PLACE: 32}), ({("t", 0): 1}, 0, {PLACE: 1})],
)
def test_ours_commits_what_the_tracker_says(positions: dict[Any, int], last: int, expected: dict[TP, int]) -> None:
    """Path 1, ours: only a position beyond the last commit is committed, whatever Faust believes was acked."""
    ours: Any = SimpleNamespace(
        intake=SimpleNamespace(positions=lambda: positions),
        _confirmed={PLACE: last},
        _committed_offset={PLACE: 34},
        _acked={PLACE: [32, 33]},
    )
    assert LaneConsumer._filter_committable_offsets(ours, [PLACE]) == expected


async def test_1_a_record_in_work_holds_back_the_commit_of_everything_after_it(settings: Settings) -> None:
    """Path 1 on a fresh topic (record 0) and on a resumed one (record 31)."""
    topic, group = f"{settings.topic_prefix}held", f"{settings.topic_prefix}freshet-v1-lane"
    make_topic(settings.kafka.servers, topic)
    await asyncio.to_thread(send_all, settings, topic, numbered(50))
    seen: list[int] = []
    done: list[int] = []
    stuck = {0}

    async def work(record: SourceRecord) -> None:
        seen.append(record.offset)
        if record.offset in stuck:
            await asyncio.sleep(3600)
        done.append(record.offset)

    lane = sliding_lane(settings, topic, work)
    await lane.start()
    await until(lambda: len(done) == 49, "49 records")
    await asyncio.sleep(2.5)  # two commit intervals
    assert committed(settings.kafka.servers, group, topic) is None
    await lane.stop()
    assert committed(settings.kafka.servers, group, topic) is None

    seen.clear()
    stuck.clear()
    stuck.add(31)
    lane = sliding_lane(settings, topic, work)
    await lane.start()
    await until(lambda: len(seen) == 50, "50 records again")
    await until(lambda: committed(settings.kafka.servers, group, topic) == 31, "the commit of 31")
    await lane.stop()
    assert sorted(seen) == list(range(50))

    seen.clear()
    stuck.clear()
    lane = sliding_lane(settings, topic, work)
    await lane.start()
    await until(lambda: committed(settings.kafka.servers, group, topic) == 50, "the commit of 50")
    await lane.stop()
    assert sorted(seen) == list(range(31, 50))


async def test_2_and_5_an_error_acknowledges_nothing_then_or_later(settings: Settings) -> None:
    """Paths 2 and 5: the failing record is not acked, and nothing behind it is while the lane is dying."""
    topic, group = f"{settings.topic_prefix}error", f"{settings.topic_prefix}freshet-v1-lane"
    make_topic(settings.kafka.servers, topic)
    await asyncio.to_thread(send_all, settings, topic, numbered(20))

    async def work(record: SourceRecord) -> None:
        if record.offset == 5:
            await asyncio.sleep(0.3)
            raise RuntimeError("bug")

    lane = sliding_lane(settings, topic, work)
    await lane.start()
    error = await asyncio.wait_for(lane.wait_failed(), 20)
    assert str(error) == "bug"
    await asyncio.to_thread(send_all, settings, topic, numbered(20, 20))
    await asyncio.sleep(2.5)
    assert committed(settings.kafka.servers, group, topic) in (None, 5)
    await lane.stop()
    assert committed(settings.kafka.servers, group, topic) == 5


async def test_3_a_cancellation_acknowledges_nothing(settings: Settings) -> None:
    """Path 3: a stop in the middle of the work leaves its record to the next start."""
    topic, group = f"{settings.topic_prefix}cancel", f"{settings.topic_prefix}freshet-v1-lane"
    make_topic(settings.kafka.servers, topic)
    await asyncio.to_thread(send_all, settings, topic, numbered(10))
    cancelled: list[int] = []

    async def work(record: SourceRecord) -> None:
        if record.offset >= 3:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.append(record.offset)
                raise

    lane = sliding_lane(settings, topic, work)
    await lane.start()
    await until(lambda: committed(settings.kafka.servers, group, topic) == 3, "the commit of 3")
    await lane.stop()
    assert sorted(cancelled) == list(range(3, 10))
    assert committed(settings.kafka.servers, group, topic) == 3


async def test_4_a_batch_that_fails_half_way_is_read_again_whole(settings: Settings) -> None:
    """Path 4: Faust's `take` acks the unfinished batch in a `finally`; here the whole batch comes again."""
    topic, group = f"{settings.topic_prefix}half", f"{settings.topic_prefix}freshet-v1-lane"
    make_topic(settings.kafka.servers, topic)
    await asyncio.to_thread(send_all, settings, topic, numbered(10))
    done: list[int] = []
    broken = [True]

    async def work(records: Sequence[SourceRecord]) -> None:
        for record in records:
            if record.offset == 7 and broken:
                raise RuntimeError("bug")
            done.append(record.offset)

    lane = batch_lane(settings, topic, work)
    await lane.start()
    assert str(await asyncio.wait_for(lane.wait_failed(), 20)) == "bug"
    await lane.stop()
    before = committed(settings.kafka.servers, group, topic) or 0
    assert before <= 7
    done.clear()
    broken.clear()
    lane = batch_lane(settings, topic, work)
    await lane.start()
    await until(lambda: committed(settings.kafka.servers, group, topic) == 10, "the commit of 10")
    await lane.stop()
    assert done == list(range(before, 10))


async def test_6_records_fetched_under_a_pause_are_yielded_or_read_again() -> None:
    """Found here: Faust's `getmany` drops what it has fetched when its partition is paused meanwhile; a rewind follows
    only where the group has committed already, so a fresh topic can lose its first records."""
    rewound: list[bool] = []
    fetched = {PLACE: [1, 2, 3]}

    async def fetch(timeout: float) -> Any:
        return fetched, set()

    async def rewind() -> None:
        rewound.append(True)

    consumer: Any = SimpleNamespace(
        _wait_next_records=fetch,
        _thread=SimpleNamespace(fetched_generation=1),
        should_stop=False,
        flow_active=True,
        app=SimpleNamespace(consumer_generation_id=1),
        scheduler=SimpleNamespace(iterate=lambda records: [(tp, one) for tp in records for one in records[tp]]),
        rewind=rewind,
        _to_message=lambda tp, one: SimpleNamespace(offset=one),
    )
    got = [message.offset async for _, message in LaneConsumer.getmany(consumer, 1.0)]
    assert got == [1, 2, 3]  # no partition is active, and still nothing is dropped
    consumer.flow_active = False
    assert [message async for _, message in LaneConsumer.getmany(consumer, 1.0)] == []
    assert rewound == [True]
