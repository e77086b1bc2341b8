"""Windows of work between reading and acknowledging: in batches, or sliding with the order of each key kept.

Owns when work starts and how much is under way. Pure asyncio, no Kafka: `streams.consumers.assignment` says what is
read and what is durable. The work itself handles poison and transient errors; whatever it raises is fatal and stops the
lane.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from streams.kafka.offsets import Ticket
from streams.kafka.record import SourceRecord

Finish = Callable[[Ticket], None]
Fail = Callable[[BaseException], None]


class InFlight(Protocol):
    """What an intake asks of a window; all calls come from one event loop."""

    async def space(self) -> None:
        """Return when one more record fits; back-pressure is this call taking its time."""
        ...

    def add(self, ticket: Ticket, record: SourceRecord) -> None:
        """Take one record; never blocks."""
        ...

    async def drain(self, timeout_s: float) -> bool:
        """Start what waits and let everything end; False where `timeout_s` did not suffice."""
        ...

    async def clear(self) -> None:
        """Cancel what is under way and forget what waits; none of it is finished afterwards."""
        ...


class Batcher:
    """One batch at a time: started when `size` records wait, or `wait_s` after the first of them, or by a drain."""

    def __init__(
        self,
        work: Callable[[Sequence[SourceRecord]], Awaitable[None]],
        finish: Finish,
        fail: Fail,
        *,
        size: int,
        wait_s: float,
    ) -> None:
        self._work, self._finish, self._fail = work, finish, fail
        self._size, self._wait_s = size, wait_s
        self._waiting: deque[tuple[Ticket, SourceRecord]] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def space(self) -> None:
        await self._room.wait()

    def add(self, ticket: Ticket, record: SourceRecord) -> None:
        self._waiting.append((ticket, record))
        if len(self._waiting) >= self._size:
            self._room.clear()
            self._begin()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._wait_s, self._begin)

    async def drain(self, timeout_s: float) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        self._begin()
        while self._task is not None and loop.time() < deadline:
            await asyncio.wait([self._task], timeout=deadline - loop.time())
        return self._task is None and not self._waiting

    async def clear(self) -> None:
        self._forget_waiting()
        if self._task is not None:
            await _cancel([self._task])
        self._task = None
        self._room.set()

    def _begin(self) -> None:
        self._stop_timer()
        if self._task is None and self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            self._room.set()
            self._task = asyncio.create_task(self._run(batch))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget_waiting(self) -> None:
        self._stop_timer()
        self._waiting.clear()

    async def _run(self, batch: list[tuple[Ticket, SourceRecord]]) -> None:
        try:
            await self._work([record for _, record in batch])
        except Exception as error:
            self._forget_waiting()
            self._task = None
            self._fail(error)
            return
        for ticket, _ in batch:
            self._finish(ticket)
        self._task = None
        self._begin()  # what came meanwhile has waited long enough


class InFlightLimiter:
    """Up to `size` records at once, each its own task; two of one key run one after the other, in order.

    A slow record holds back only its own key. Work that has to wait for a dependency calls `park`: up to `parking`
    records, and those behind them under one key, wait beside the window, so that others can pass.
    """

    def __init__(
        self,
        work: Callable[[SourceRecord], Awaitable[None]],
        finish: Finish,
        fail: Fail,
        *,
        size: int,
        parking: int = 0,
    ) -> None:
        self._work, self._finish, self._fail = work, finish, fail
        self._size, self._parking = size, parking
        self._tasks: set[asyncio.Task[None]] = set()
        self._parked: set[asyncio.Task[None]] = set()
        self._last: dict[bytes, asyncio.Task[None]] = {}
        self._room = asyncio.Event()
        self._room.set()

    async def space(self) -> None:
        await self._room.wait()

    def add(self, ticket: Ticket, record: SourceRecord) -> None:
        before = self._last.get(record.key) if record.key is not None else None
        task = asyncio.create_task(self._run(ticket, record, before))
        self._tasks.add(task)
        if record.key is not None:
            self._last[record.key] = task
        task.add_done_callback(lambda done, key=record.key: self._ended(done, key))  # type: ignore[misc]
        self._set_room()

    def park(self) -> None:
        """Called by work on a record that will wait long: from now on it takes no place, if there is room to park."""
        task = asyncio.current_task()
        if task in self._tasks and len(self._parked) < self._parking:
            self._parked.add(task)
            self._set_room()

    async def drain(self, timeout_s: float) -> bool:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        return not self._tasks

    async def clear(self) -> None:
        await _cancel(list(self._tasks))

    async def _run(self, ticket: Ticket, record: SourceRecord, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            if before in self._parked:
                self.park()
            await asyncio.wait([before])
        try:
            await self._work(record)
        except Exception as error:
            self._fail(error)
            return
        self._finish(ticket)

    def _ended(self, task: asyncio.Task[None], key: bytes | None) -> None:
        self._tasks.discard(task)
        self._parked.discard(task)
        if key is not None and self._last.get(key) is task:
            del self._last[key]
        self._set_room()

    def _set_room(self) -> None:
        if len(self._tasks) - len(self._parked) < self._size:
            self._room.set()
        else:
            self._room.clear()


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
