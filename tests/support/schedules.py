"""Every schedule of a lane: its real code on a loop that is driven step by step, over dependencies that fail on demand.

Owns the loop with a clock of its own, dependencies that count their calls, and the check that nothing is acknowledged
whose result is not durable. Must not know a lane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from streams.consumers.assignment import Intake
from streams.kafka.producer import Delivery, Headers
from streams.kafka.record import SourceRecord
from tests.support.fakes_broker import FakeBroker

T = TypeVar("T")
MOST_STEPS = 5_000


class StepLoop(asyncio.SelectorEventLoop):
    """A loop whose every iteration is one step of the caller's; between two of them stands each await point.

    Waiting takes no time: where nothing is ready, its clock jumps to when somebody wants to be woken.
    """

    _now = 0.0
    _ready: Any
    _scheduled: Any

    def time(self) -> float:
        return self._now

    def step(self) -> None:
        """One iteration: whatever is ready runs up to its next await point."""
        if not self._ready and self._scheduled:
            self._now = max(self._now, self._scheduled[0].when())
        self.call_soon(self.stop)
        self.run_forever()

    def finish(self, until: Callable[[], bool]) -> int:
        """Step until `until`; answers how many steps it took."""
        for steps in range(MOST_STEPS):
            if until():
                return steps
            self.step()
        raise AssertionError(f"not done after {MOST_STEPS} steps")


@contextmanager
def stepping(monkeypatch: Any) -> Iterator[StepLoop]:
    """A new loop, on which threads are steps too; whatever is left on it is dropped, as a dead process drops it."""

    async def to_thread(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        await asyncio.sleep(0)
        result = call(*args, **kwargs)
        await asyncio.sleep(0)
        return result

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    loop = StepLoop()
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        for _ in range(3):
            loop.step()
        for task in asyncio.all_tasks(loop):
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()


class Calls:
    """Counts calls of dependencies, and lets one of them fail: the `fail_at`-th, with `error`."""

    def __init__(self, fail_at: int = -1, error: BaseException | None = None) -> None:
        self.made = 0
        self._fail_at, self._error = fail_at, error

    def __call__(self) -> None:
        self.made += 1
        if self._error is not None and self.made - 1 == self._fail_at:
            raise self._error

    def wrap(self, call: Callable[..., T]) -> Callable[..., T]:
        """`call`, counted."""

        def counted(*args: Any, **kwargs: Any) -> T:
            self()
            return call(*args, **kwargs)

        return counted


class SlowProducer:
    """Confirms each record some steps after it was sent; only then is it durable. A failure is the future's."""

    def __init__(self, broker: FakeBroker, loop: StepLoop, calls: Calls) -> None:
        self._broker, self._loop, self._calls = broker, loop, calls

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, *, headers: Headers = (), timestamp: int = 0
    ) -> Future[Delivery]:
        """See `streams.kafka.producer.Producer.send`."""
        future: Future[Delivery] = Future()
        future.set_running_or_notify_cancel()
        try:
            self._calls()
        except Exception as error:
            self._loop.call_soon(future.set_exception, error)
            return future

        def confirm() -> None:
            record = self._broker.append(topic, key, value, headers=headers, timestamp=timestamp)
            future.set_result(Delivery(topic, 0, record.offset))

        self._loop.call_soon(lambda: self._loop.call_soon(confirm))
        return future

    def close(self, timeout_s: float = 10.0) -> None:
        """Nothing to wait for."""


class Drive:
    """An intake that is fed records from a position on, and that somebody may break at any step."""

    def __init__(self, loop: StepLoop, make: Callable[[], Intake], records: Sequence[SourceRecord]) -> None:
        self.loop, self._records = loop, records
        self.intake = self._run(self._made(make))
        self._feeding: asyncio.Task[None] | None = None

    def position(self) -> int:
        """The offset that would be committed now."""
        return next(iter(self.intake.positions().values()), 0)

    def begin(self, position: int) -> None:
        """Read from `position` on, as a new owner of the partition does."""
        self.intake.open(1)
        self._feeding = self.loop.create_task(self._feed(self._records[position:]))

    def done(self) -> bool:
        """Whether all is acknowledged, or the lane has failed."""
        return self.intake.failed.done() or self.position() == len(self._records)

    def rebalance(self) -> int:
        """Lose the partition with no time to finish anything; answers the position then committed."""
        self._run(self.intake.release(0.0))
        position = self.position()
        self.intake.forget()
        return position

    async def _made(self, make: Callable[[], Intake]) -> Intake:
        return make()

    def _run(self, work: Any) -> Any:
        task = self.loop.create_task(work)
        self.loop.finish(task.done)
        return task.result()

    async def _feed(self, records: Sequence[SourceRecord]) -> None:
        for record in records:
            if not await self.intake.take(record, 1):
                return
