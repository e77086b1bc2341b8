"""One pass over ranges of a topic: read, work within limits, and know at any time what is done.

Owns the way from ranges to positions. Must not know what the work is, nor keep positions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Container, Sequence
from contextlib import suppress
from typing import Any

from streams.consumers.assignment import Intake, MakeInFlight
from streams.kafka.batch import Message
from streams.kafka.offsets import TopicPartition
from streams.kafka.ranges import Range, RangeReader
from streams.kafka.record import SourceRecord
from streams.metrics import Metrics
from streams.settings import Settings

_GENERATION = 0
_RECORDS, _POLL_S = 500, 0.2
_DRAIN_S = 5.0
_TOLD_EVERY_S = 1.0

Tell = Callable[[dict[TopicPartition, int], int], Awaitable[None]]
"""Called with the first offset that is not done of each partition, and the records done since the last call."""


class Rate:
    """No more than `per_s` a second; 0: no limit. Time that was not used is not saved up."""

    def __init__(self, per_s: float) -> None:
        self._each_s = 1 / per_s if per_s else 0.0
        self._free_at = 0.0

    async def spend(self, count: int = 1) -> None:
        """Wait until so many more may be worked on."""
        if self._each_s:
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + count * self._each_s
            if self._free_at - now > 0.01:
                await asyncio.sleep(self._free_at - now)


class ReplayFeed:
    """Gives the records of `ranges` to their work; `wanted` are the keys that count, None for all."""

    def __init__(
        self,
        settings: Settings,
        stage: str,
        ranges: Sequence[Range],
        metrics: Metrics,
        make_in_flight: MakeInFlight,
        *,
        wanted: Container[bytes] | None,
        rate: Rate,
        collect: bool,
    ) -> None:
        self._settings = settings
        self._ranges = ranges
        self._wanted = wanted
        self._rate = rate
        self._collect = collect
        self._intake = Intake(stage, metrics, make_in_flight)
        self._passed = {one.topic_partition: one.first for one in ranges}
        self._starts = dict(self._passed)
        self._taken = self._told = 0
        self.keys: set[bytes] = set()
        """The keys of the records worked on, where they are to be collected."""

    async def run(self, tell: Tell) -> None:
        """Return when all is done; raises what the work raises, and `KafkaException`.

        Cancelled, it tells once more what is done by then: as much as ends within `_DRAIN_S`.
        """
        self._intake.open(_GENERATION)
        reading, telling = asyncio.create_task(self._read()), asyncio.create_task(self._tell(tell))
        waits: list[asyncio.Future[Any]] = [reading, telling, self._intake.failed]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._intake.failed.done():
                raise self._intake.failed.result()
            for task in (reading, telling):
                if task.done():
                    task.result()
        finally:
            reading.cancel()
            telling.cancel()
            await asyncio.wait([reading, telling])
            await self._intake.release(_DRAIN_S)
            with suppress(TimeoutError):  # where Redis is away, what is done is done again
                async with asyncio.timeout(_DRAIN_S):
                    await tell(*self._done())
            self._intake.forget()

    async def _read(self) -> None:
        with RangeReader(self._settings) as reader:
            reader.begin(self._ranges)
            while reader.open:
                for message in await polled(reader, _RECORDS):
                    await self._take(SourceRecord.of_message(message))
                self._passed |= {tp: reader.scanned[tp] for tp in reader.scanned if tp not in reader.open}
        while self._intake.pending():
            await asyncio.sleep(0.02)

    async def _take(self, record: SourceRecord) -> None:
        if self._wanted is None or record.key in self._wanted:
            await self._rate.spend()
            await self._intake.take(record, _GENERATION)
            self._taken += 1
            if self._collect and record.key is not None:
                self.keys.add(record.key)
        self._passed[record.topic_partition] = record.offset + 1

    async def _tell(self, tell: Tell) -> None:
        while True:
            await asyncio.sleep(_TOLD_EVERY_S)
            await tell(*self._done())

    def _done(self) -> tuple[dict[TopicPartition, int], int]:
        """What was passed is done, unless something taken before is still under way."""
        finished = self._intake.positions()
        reached = {
            tp: finished.get(tp, self._starts[tp]) if self._intake.pending(tp) else passed
            for tp, passed in self._passed.items()
        }
        done = self._taken - self._intake.pending()
        news, self._told = done - self._told, done
        return reached, news


async def polled(reader: RangeReader, most: int) -> list[Message]:
    """`reader.poll` in a thread; a cancellation waits for the thread, which the reader must not be closed under."""
    polling = asyncio.create_task(asyncio.to_thread(reader.poll, most, _POLL_S))
    try:
        return await asyncio.shield(polling)
    except asyncio.CancelledError:
        await asyncio.wait([polling])
        raise


async def keys_in(settings: Settings, ranges: Sequence[Range]) -> set[bytes]:
    """The keys of the records of `ranges`."""
    found: set[bytes] = set()
    with RangeReader(settings) as reader:
        reader.begin(ranges)
        while reader.open:
            messages = await polled(reader, 20 * _RECORDS)
            found.update(key for message in messages if (key := message.key()) is not None)
    return found
