"""From records read to offsets that may be committed, across rebalances: the pure half of a Faust lane.

Owns the tracker, the window and which assignment of partitions (generation) is in force. Must not know Faust: a test,
or another client, drives it the same way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from streams.consumers.in_flight import Fail, Finish, InFlight
from streams.kafka.offsets import OffsetTracker, Ticket, TopicPartition
from streams.kafka.record import SourceRecord
from streams.metrics import Metrics

log = logging.getLogger(__name__)

MakeInFlight = Callable[[Finish, Fail], InFlight]


class Intake:
    """Registers what is read, lets a window work on it, and says what may be committed.

    1. `open(generation)` when partitions are assigned;
    2. `take` every record in the order read; it waits while the window is full;
    3. `positions` is what may be committed at any time;
    4. `release` when partitions are revoked or the lane stops: finish what can be finished in time, abandon the rest;
    5. commit `positions` once more, then `forget`.
    """

    def __init__(self, lane: str, metrics: Metrics, make_in_flight: MakeInFlight) -> None:
        self.lane = lane
        self._metrics = metrics
        self._tracker = OffsetTracker()
        self._in_flight = make_in_flight(self._finish, self.fail)
        self._generation: int | None = None
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    @property
    def generation(self) -> int | None:
        """The assignment in force; None between a release and the next `open`."""
        return self._generation

    def open(self, generation: int) -> None:
        """Begin an assignment; whatever an earlier one left is void."""
        self._tracker.forget()
        self._generation = generation

    async def take(self, record: SourceRecord, generation: int) -> bool:
        """Put one record to work; False where it belongs to another assignment and must be read again.

        A record this assignment has already read (a consumer may rewind) is in work or durable: taken care of.
        """
        await self._in_flight.space()
        if generation != self._generation or self.failed.done():
            return False
        if self._tracker.seen(record.topic_partition, record.offset):
            return True
        self._in_flight.add(self._tracker.register(record.topic_partition, record.offset), record)
        self._metrics.in_flight.labels(lane=self.lane).set(self._tracker.pending())
        return True

    def positions(self) -> dict[TopicPartition, int]:
        """The offset to commit for each partition that has one."""
        return self._tracker.positions()

    def pending(self, tp: TopicPartition | None = None) -> int:
        """Records taken of one partition, or of all, and not yet finished in order."""
        return self._tracker.pending(tp)

    async def release(self, timeout_s: float) -> None:
        """Take nothing more; give what is under way `timeout_s` to end, then cancel it (it will be read again)."""
        self._generation = None
        drained = not self.failed.done() and await self._in_flight.drain(timeout_s)
        if not drained:
            log.warning("abandoned records in flight", extra={"lane": self.lane, "records": self._tracker.pending()})
        await self._in_flight.clear()

    def forget(self) -> None:
        """Drop the released partitions; call after their last commit."""
        self._tracker.forget()
        self._metrics.in_flight.labels(lane=self.lane).set(0)

    def fail(self, error: BaseException) -> None:
        """Note why the lane can not go on; the first reason stays."""
        if not self.failed.done():
            self.failed.set_result(error)

    def _finish(self, ticket: Ticket) -> None:
        if self._tracker.finish(ticket):
            self._metrics.in_flight.labels(lane=self.lane).set(self._tracker.pending())
