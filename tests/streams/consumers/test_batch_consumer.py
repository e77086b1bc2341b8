from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter

import pytest
import redis

from freshet.records import DeadLetter
from schemas.codec import Codec
from streams.consumers import batch_consumer
from streams.consumers.batch_consumer import BatchConsumer
from streams.errors import Reason, TooManyDeadLetters
from streams.kafka.batch import Batch, Rejected
from streams.kafka.consumer import Subscription, consumer_group
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.support.lane_tools import committed, make_topic, read_all, send_all, until

TOPIC = "in"


class FakeMessage:
    def __init__(self, topic="t", partition=0, offset=0):
        self._place, self._offset = (topic, partition), offset

    def topic(self):
        return self._place[0]

    def partition(self):
        return self._place[1]

    def offset(self):
        return self._offset


def test_a_batch_knows_its_spans_and_keeps_what_is_wanted():
    batch = Batch.of([FakeMessage("t", 0, 4), FakeMessage("t", 1, 9), FakeMessage("t", 0, 7)])
    assert batch.spans() == {("t", 0): (4, 7), ("t", 1): (9, 9)}
    assert batch.keep({("t", 0), ("t", 1)}) is batch
    assert batch.keep({("t", 1)}).offsets == [9]
    assert len(batch.keep(())) == 0


class Recorder:
    """A handler that notes what it was given; `before` runs first and may raise or wait."""

    def __init__(self, before=lambda batch: None, reject=lambda message: False):
        self.before, self.reject = before, reject
        self.written: list[tuple[str, int, int]] = []

    def write(self, batch):
        self.before(batch)
        rejected = []
        for row, (message, (topic, partition), offset) in enumerate(
            zip(batch.messages, batch.partitions, batch.offsets, strict=True)
        ):
            if self.reject(message):
                rejected.append(Rejected(row, Reason.BAD_PAYLOAD, "test/decode", ValueError("bad")))
            else:
                self.written.append((topic, partition, offset))
        return rejected


class Bench:
    """One topic on the real broker, and lanes over it."""

    def __init__(self, kafka: str, prefix: str, partitions: int, **overrides):
        self.settings = Settings.load({}, kafka=kafka, topic_prefix=prefix, redis="redis://127.0.0.1:1", **overrides)
        self.topic = prefix + TOPIC
        self.partitions = partitions
        make_topic(kafka, self.topic, partitions)
        make_topic(kafka, self.topic + ".dlq", 1)
        self.open: list[BatchConsumer] = []
        self.sent = 0

    def send(self, count: int) -> None:
        numbers = range(self.sent, self.sent + count)
        send_all(self.settings, self.topic, [(b"%d" % n, b"%d" % n) for n in numbers])
        self.sent += count

    async def lane(self, handler) -> BatchConsumer:
        resources = Resources(self.settings)
        group = consumer_group(self.settings, "test")
        lane = BatchConsumer(Subscription("test", group, (self.topic,)), resources, handler)
        lane.resources = resources
        await lane.start()
        self.open.append(lane)
        return lane

    async def stop(self, lane: BatchConsumer) -> None:
        self.open.remove(lane)
        await lane.stop()
        await lane.resources.close()

    def committed(self) -> int:
        offsets = [committed(self.settings.kafka.servers, f"{self.settings.topic_prefix}freshet-v1-test", self.topic, p)
                   for p in range(self.partitions)]  # fmt: skip
        return sum(offset or 0 for offset in offsets)


@pytest.fixture
async def bench(kafka, topic_prefix, monkeypatch):
    made = []

    def make(partitions=2, batch_records=batch_consumer.BATCH_RECORDS, **overrides):
        monkeypatch.setattr(batch_consumer, "BATCH_RECORDS", batch_records)
        made.append(Bench(kafka, topic_prefix, partitions, **overrides))
        return made[-1]

    yield make
    for one in made:
        for lane in list(one.open):
            await one.stop(lane)


async def test_nothing_is_committed_before_it_is_written(bench):
    # Catches acknowledging on receipt.
    b = bench()
    b.send(100)
    gate = threading.Event()
    handler = Recorder(before=lambda batch: gate.wait(20))
    await b.lane(handler)
    await asyncio.sleep(1.5)  # the batch has long arrived, and two commit intervals have passed
    assert b.committed() == 0
    gate.set()
    await until(lambda: b.committed() == 100, "the commit")
    assert len(handler.written) == 100


async def test_a_stop_commits_what_is_written_and_the_next_lane_goes_on_there(bench):
    b = bench()
    b.send(50)
    first = Recorder()
    lane = await b.lane(first)
    await until(lambda: len(first.written) == 50, "the first fifty")
    await b.stop(lane)
    assert b.committed() == 50
    b.send(25)
    second = Recorder()
    await b.lane(second)
    await until(lambda: len(second.written) == 25, "the rest, and only that")


async def test_a_transient_error_costs_time_and_no_record(bench):
    # Catches dropping, dead-lettering or skipping records while Redis is away.
    b = bench()
    b.send(300)
    failures = iter([redis.ConnectionError("away")] * 3)

    def fail(batch):
        if batch.messages and (error := next(failures, None)):
            raise error

    handler = Recorder(before=fail)
    lane = await b.lane(handler)
    await until(lambda: lane._loop._paused, "the pause")
    b.send(300)
    await until(lambda: b.committed() == 600, "everything")
    assert Counter(handler.written).most_common(1)[0][1] == 1
    assert len(handler.written) == 600
    for partition in range(2):
        offsets = [offset for _, p, offset in handler.written if p == partition]
        assert offsets == sorted(offsets)
    assert lane.resources.metrics.retries.labels(lane="test", cause="ConnectionError")._value.get() == 3
    assert lane.resources.metrics.backing_off.labels(lane="test")._value.get() == 0


async def test_a_stop_while_a_dependency_is_away_commits_nothing(bench):
    # Catches a drain that acknowledges what it could not write, or that hangs.
    b = bench()
    b.send(10)

    def away(batch):
        raise redis.ConnectionError("away")

    lane = await b.lane(Recorder(before=away))
    await until(lambda: lane._loop._paused, "the pause")
    started = time.monotonic()
    await b.stop(lane)
    assert time.monotonic() - started < 5
    assert b.committed() == 0
    handler = Recorder()
    await b.lane(handler)
    await until(lambda: len(handler.written) == 10, "the records again")


async def test_an_error_nobody_named_stops_the_lane_and_acknowledges_nothing(bench):
    # Catches swallowing a bug and committing past the batch it broke.
    b = bench()
    b.send(10)

    def broken(batch):
        raise RuntimeError("bug")

    lane = await b.lane(Recorder(before=broken))
    failure = await asyncio.wait_for(lane.wait_failed(), 20)
    assert isinstance(failure, RuntimeError)
    await b.stop(lane)
    assert b.committed() == 0


async def test_rejected_records_are_dead_letters_and_the_rest_goes_on(bench):
    b = bench(partitions=1)
    b.send(100)
    handler = Recorder(reject=lambda message: message.value() in (b"0", b"50", b"99"))
    await b.lane(handler)
    await until(lambda: b.committed() == 100, "the commit")
    assert len(handler.written) == 97
    dead_letters = [
        Codec().decode(DeadLetter, record.value) for record in read_all(b.settings.kafka.servers, b.topic + ".dlq")
    ]
    assert [
        (dead_letter.offset, dead_letter.value, dead_letter.reason, dead_letter.stage) for dead_letter in dead_letters
    ] == [(n, b"%d" % n, "bad_payload", "test/decode") for n in (0, 50, 99)]


async def test_a_run_of_dead_letters_stops_the_lane_but_scattered_ones_do_not(bench):
    # Catches counting the letters of a batch as one run, which would stop a lane over one per cent of poison.
    b = bench(partitions=1, dead_letters_run=20)
    b.send(100)
    scattered = Recorder(reject=lambda message: int(message.value()) % 2 == 0)
    lane = await b.lane(scattered)
    await until(lambda: b.committed() == 100, "the commit")
    await b.stop(lane)
    b.send(21)
    lane = await b.lane(Recorder(reject=lambda message: True))
    assert isinstance(await asyncio.wait_for(lane.wait_failed(), 20), TooManyDeadLetters)
    await b.stop(lane)
    assert b.committed() == 100


async def test_consumers_that_join_and_leave_lose_and_double_nothing(bench, monkeypatch):
    # Catches giving up a partition without committing what was written (doubles), or committing what was not (losses).
    monkeypatch.setattr(batch_consumer, "LINGER_S", 0.01)
    b = bench(partitions=4, batch_records=20)
    b.send(8_000)
    handlers = [Recorder(before=lambda batch: time.sleep(0.02)) for _ in range(3)]
    first = await b.lane(handlers[0])
    await until(lambda: len(handlers[0].written) > 200, "the first lane's start")
    await b.lane(handlers[1])
    await until(lambda: len(handlers[1].written) > 200, "the second lane's share")
    third = await b.lane(handlers[2])
    await until(lambda: third._loop._assigned, "the third lane's share")
    assert len(handlers[0].written) + len(handlers[1].written) < b.sent  # it happens under load
    await b.stop(first)
    b.send(500)
    await until(lambda: b.committed() == b.sent, "everything")
    times = Counter(place for handler in handlers for place in handler.written)
    assert len(times) == b.sent
    assert set(times.values()) == {1}


async def test_records_of_a_partition_that_leaves_during_a_retry_go_to_its_new_owner(bench):
    # Catches a lane that writes or commits, after a long outage, what another member owns by then.
    b = bench(partitions=2)
    b.send(200)
    away = threading.Event()

    def fail(batch):
        if batch.messages and not away.is_set():
            raise redis.ConnectionError("away")

    stuck = Recorder(before=fail)
    lane = await b.lane(stuck)
    await until(lambda: lane._loop._paused, "the pause")
    other = Recorder()
    await b.lane(other)
    await until(lambda: other.written, "the partition that moved")
    away.set()
    await until(lambda: b.committed() == 200, "everything")
    times = Counter(stuck.written + other.written)
    assert (len(times), set(times.values())) == (200, {1})
    assert {p for _, p, _ in stuck.written}.isdisjoint({p for _, p, _ in other.written})
