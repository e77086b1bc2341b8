"""The intake: generations, rewinds and what may be committed at each moment."""

from __future__ import annotations

import asyncio

from streams.consumers.assignment import Intake
from streams.consumers.in_flight import InFlightLimiter
from streams.kafka.record import SourceRecord
from streams.metrics import Metrics

P = ("t", 0)


def record(offset: int) -> SourceRecord:
    return SourceRecord("t", 0, offset, 0, b"%d" % offset, b"")


class Work:
    """Records wait until they are let go."""

    def __init__(self) -> None:
        self.gates: dict[int, asyncio.Event] = {}
        self.began: list[int] = []

    async def __call__(self, record: SourceRecord) -> None:
        self.began.append(record.offset)
        await self.gates.setdefault(record.offset, asyncio.Event()).wait()

    def let_go(self, *offsets: int) -> None:
        for offset in offsets:
            self.gates.setdefault(offset, asyncio.Event()).set()


def make(work: Work, size: int = 10) -> Intake:
    return Intake("lane", Metrics(), lambda finish, fail: InFlightLimiter(work, finish, fail, size=size))


async def test_positions_follow_the_first_unfinished_record() -> None:
    """Catches a commit past a record in work."""
    work = Work()
    intake = make(work)
    intake.open(1)
    for offset in range(3):
        assert await intake.take(record(offset), 1)
    work.let_go(1, 2)
    await asyncio.sleep(0.01)
    assert intake.positions() == {}
    work.let_go(0)
    await asyncio.sleep(0.01)
    assert intake.positions() == {P: 3}


async def test_a_record_of_another_assignment_is_not_taken() -> None:
    """Catches a record fetched before a rebalance that would shadow the ones before it in the next assignment."""
    work = Work()
    intake = make(work)
    assert not await intake.take(record(9), 1)
    intake.open(2)
    assert not await intake.take(record(9), 1)
    assert await intake.take(record(4), 2)
    assert work.began == [] or work.began == [4]


async def test_a_rewound_record_is_in_good_hands() -> None:
    """Catches a consumer's rewind that works on a record twice, or loses count of it."""
    work = Work()
    intake = make(work)
    intake.open(1)
    for offset in (0, 1, 0, 1, 2):
        assert await intake.take(record(offset), 1)
    work.let_go(0, 1, 2)
    await asyncio.sleep(0.01)
    assert work.began == [0, 1, 2]
    assert intake.positions() == {P: 3}


async def test_a_release_finishes_what_it_can_and_voids_the_rest() -> None:
    """Catches a rebalance that waits for a slow LLM, or commits what it cancelled."""
    work = Work()
    intake = make(work)
    intake.open(1)
    for offset in range(3):
        await intake.take(record(offset), 1)
    work.let_go(0)
    await asyncio.wait_for(intake.release(0.05), 1)
    assert intake.positions() == {P: 1}
    intake.forget()
    intake.open(2)
    work.let_go(1)
    await asyncio.sleep(0.01)
    assert intake.positions() == {}


async def test_a_release_wakes_a_reader_that_waits_for_space() -> None:
    """Catches a deadlock: the agent waits for the window, the rebalance for the agent."""
    work = Work()
    intake = make(work, size=1)
    intake.open(1)
    await intake.take(record(0), 1)
    waiting = asyncio.create_task(intake.take(record(1), 1))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await intake.release(0.01)
    assert not await asyncio.wait_for(waiting, 1)


async def test_the_first_failure_is_kept_and_nothing_more_is_taken() -> None:
    """Catches a lane that goes on reading, and committing, after a bug."""

    async def work(record: SourceRecord) -> None:
        raise RuntimeError(f"bug at {record.offset}")

    intake = Intake("lane", Metrics(), lambda finish, fail: InFlightLimiter(work, finish, fail, size=5))
    intake.open(1)
    await intake.take(record(0), 1)
    await intake.take(record(1), 1)
    await asyncio.sleep(0.01)
    assert str(intake.failed.result()) == "bug at 0"
    assert not await intake.take(record(2), 1)
    assert intake.positions() == {}
