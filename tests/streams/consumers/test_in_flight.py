"""Windows: when work starts, what is held back, and what an end leaves unfinished."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from streams.consumers.in_flight import Batcher, InFlightLimiter
from streams.kafka.offsets import OffsetTracker, Ticket
from streams.kafka.record import SourceRecord

P = ("t", 0)


class Log:
    """Tickets finished and errors noted, and the records to give to a window."""

    def __init__(self) -> None:
        self.finished: list[int] = []
        self.errors: list[BaseException] = []
        self._tracker = OffsetTracker()

    def finish(self, ticket: Ticket) -> None:
        self.finished.append(ticket.first)

    def entry(self, offset: int, key: bytes | None = None) -> tuple[Ticket, SourceRecord]:
        return self._tracker.register(P, offset), SourceRecord("t", 0, offset, 0, key, b"")


async def test_a_batch_starts_when_it_is_full() -> None:
    """Catches a full window that waits for its timer."""
    log, batches = Log(), []

    async def work(records: Sequence[SourceRecord]) -> None:
        batches.append([record.offset for record in records])

    window = Batcher(work, log.finish, log.errors.append, size=3, wait_s=3600)
    for offset in range(3):
        window.add(*log.entry(offset))
    await asyncio.sleep(0.01)
    assert batches == [[0, 1, 2]]
    assert log.finished == [0, 1, 2]


async def test_a_lonely_record_does_not_wait_for_company() -> None:
    """Catches a last record that is never processed."""
    log = Log()

    async def work(records: Sequence[SourceRecord]) -> None:
        pass

    window = Batcher(work, log.finish, log.errors.append, size=100, wait_s=0.02)
    window.add(*log.entry(0))
    await asyncio.sleep(0.1)
    assert log.finished == [0]


async def test_what_comes_during_a_batch_is_the_next_one_and_then_space_runs_out() -> None:
    """Catches a window without a bound, or one that reads nothing while it works."""
    log, batches, go = Log(), [], asyncio.Event()

    async def work(records: Sequence[SourceRecord]) -> None:
        batches.append(len(records))
        await go.wait()

    window = Batcher(work, log.finish, log.errors.append, size=2, wait_s=3600)
    for offset in range(4):
        await asyncio.wait_for(window.space(), 1)
        window.add(*log.entry(offset))
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(window.space(), 0.05)
    go.set()
    assert await window.drain(1)
    assert batches == [2, 2]
    assert log.finished == [0, 1, 2, 3]


async def test_a_drain_flushes_a_half_full_batch() -> None:
    """Catches a rebalance or shutdown that waits on a window which waits for more records."""
    log = Log()

    async def work(records: Sequence[SourceRecord]) -> None:
        pass

    window = Batcher(work, log.finish, log.errors.append, size=100, wait_s=3600)
    window.add(*log.entry(0))
    assert await window.drain(1)
    assert log.finished == [0]


async def test_a_drain_gives_up_and_what_is_cancelled_is_not_finished() -> None:
    """Catches loss path 3: a cancellation that acknowledges the record in flight."""
    log = Log()

    async def work(records: Sequence[SourceRecord]) -> None:
        await asyncio.sleep(3600)

    async def slow(record: SourceRecord) -> None:
        await asyncio.sleep(3600)

    batch = Batcher(work, log.finish, log.errors.append, size=1, wait_s=0.01)
    sliding = InFlightLimiter(slow, log.finish, log.errors.append, size=2)
    for number, window in enumerate((batch, sliding)):
        window.add(*log.entry(2 * number))
        window.add(*log.entry(2 * number + 1))
        assert not await window.drain(0.05)
        await window.clear()
        await asyncio.wait_for(window.space(), 1)
        assert await window.drain(1)
    assert log.finished == []
    assert log.errors == []


async def test_an_error_is_told_and_nothing_of_its_batch_is_finished() -> None:
    """Catches loss path 2: an exception that acknowledges the failing record."""
    log = Log()

    async def work(records: Sequence[SourceRecord]) -> None:
        raise RuntimeError("bug")

    async def one(record: SourceRecord) -> None:
        raise RuntimeError("bug")

    window = Batcher(work, log.finish, log.errors.append, size=1, wait_s=0.01)
    window.add(*log.entry(0))
    await window.drain(1)
    sliding = InFlightLimiter(one, log.finish, log.errors.append, size=2)
    sliding.add(*log.entry(1))
    await sliding.drain(1)
    assert log.finished == []
    assert [str(error) for error in log.errors] == ["bug", "bug"]


async def test_a_slow_record_holds_back_its_key_and_nobody_else() -> None:
    """Catches a barrier: neighbors waiting for one slow item; and a key's update overtaking the one before."""
    log, go, order = Log(), asyncio.Event(), []

    async def work(record: SourceRecord) -> None:
        if record.offset == 0:
            await go.wait()
        order.append(record.offset)

    window = InFlightLimiter(work, log.finish, log.errors.append, size=10)
    for offset, key in enumerate((b"slow", b"b", b"slow", b"c", None, None)):
        window.add(*log.entry(offset, key))
    await asyncio.sleep(0.02)
    assert order == [1, 3, 4, 5]
    go.set()
    assert await window.drain(1)
    assert order[-2:] == [0, 2]


async def test_a_sliding_window_is_bounded_and_slides() -> None:
    """Catches unbounded work in flight, or one that waits for all before it takes more."""
    log, gates = Log(), {offset: asyncio.Event() for offset in range(3)}

    async def work(record: SourceRecord) -> None:
        await gates[record.offset].wait()

    window = InFlightLimiter(work, log.finish, log.errors.append, size=2)
    window.add(*log.entry(0))
    window.add(*log.entry(1))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(window.space(), 0.05)
    gates[1].set()
    await asyncio.wait_for(window.space(), 1)
    window.add(*log.entry(2))
    gates[2].set()
    await asyncio.sleep(0.02)
    assert log.finished == [1, 2]
    await window.clear()


async def test_parked_records_let_others_pass_and_have_a_limit_too() -> None:
    """Catches price changes stuck behind items that wait for an LLM; and a whole topic read into memory meanwhile."""
    log, go = Log(), asyncio.Event()

    async def work(record: SourceRecord) -> None:
        if record.key is not None:
            window.park()
            await go.wait()

    window = InFlightLimiter(work, log.finish, log.errors.append, size=2, parking=3)
    for offset in range(3):
        window.add(*log.entry(offset, b"%d" % offset))
        await asyncio.sleep(0.01)
        await asyncio.wait_for(window.space(), 1)
    window.add(*log.entry(3))
    await asyncio.sleep(0.01)
    assert log.finished == [3]
    for offset in (4, 5):
        window.add(*log.entry(offset, b"%d" % offset))
    await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(window.space(), 0.05)
    go.set()
    assert await window.drain(1)
    await asyncio.wait_for(window.space(), 1)
    assert sorted(log.finished) == list(range(6))


async def test_who_waits_behind_a_parked_key_parks_as_well() -> None:
    """Catches a window full of updates to one item that waits."""
    log, go = Log(), asyncio.Event()

    async def work(record: SourceRecord) -> None:
        if record.key == b"a":
            window.park()
            await go.wait()

    window = InFlightLimiter(work, log.finish, log.errors.append, size=2, parking=10)
    for offset in range(5):
        window.add(*log.entry(offset, b"a"))
        await asyncio.sleep(0.01)
        await asyncio.wait_for(window.space(), 1)
    go.set()
    assert await window.drain(1)
    assert log.finished == list(range(5))
