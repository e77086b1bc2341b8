"""Watches a worker from beside it: how far its lanes are behind, in records and seconds, and whether one stands still.

Owns a thread that asks Kafka every few seconds, the gauges that come of it, and the dump of all stacks when something
stands still. Must not restart anything: what hangs shows in `/livez`, what stands still while others could help in
`freshet_stalled`.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaException

from streams.health import EVENT_LOOP, Health
from streams.kafka.consumer import Subscription
from streams.kafka.lag import GroupLag, PartitionLag
from streams.metrics import Metrics

log = logging.getLogger(__name__)

EVERY_S = 5.0
BEAT_S = 1.0
_SAMPLES = 20_000
"""Ends of a partition that are remembered: a day of them."""


class LagClock:
    """How long a partition's oldest unacknowledged record has waited, from when its end was first seen beyond it.

    Exact to the interval of looking, and counted from the first look at most: what lay there before is that old at
    least. No record is read for it.
    """

    def __init__(self) -> None:
        self._ends: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)

    def seconds(self, now: float, position: int, end: int) -> float:
        """Seconds of lag at `position`, with the partition's `end` seen now; 0 where nothing is unacknowledged."""
        if not self._ends or end > self._ends[-1][1]:
            self._ends.append((now, end))
        if position >= end:
            self._ends.clear()
            self._ends.append((now, end))
            return 0.0
        while len(self._ends) > 1 and self._ends[0][1] <= position:
            self._ends.popleft()
        return max(0.0, now - self._ends[0][0])


class StallDetector:
    """Whether a lane stands still: behind, and its positions the same for `stall_s`, with nobody to wait for."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._seen: dict[str, tuple[int, float]] = {}

    def stalled(self, lane: str, now: float, positions: int, lag: int, waiting: bool) -> bool:
        """`positions` is the sum of the lane's committed offsets, `waiting` whether it backs off from a dependency."""
        known = self._seen.get(lane)
        if known is None or known[0] != positions or not lag or waiting:
            self._seen[lane] = positions, now
            return False
        return now - known[1] > self._stall_s


class StallWatcher:
    """The thread, for the lanes that these subscriptions are of; see `streams.lanes.lane.Lane`. It never fails: a Kafka
    that does not answer is the lanes' to notice."""

    name = "stall-watcher"

    def __init__(
        self, kafka: dict[str, Any], subscriptions: Sequence[Subscription], metrics: Metrics, health: Health
    ) -> None:
        self._metrics, self._health = metrics, health
        self._lanes = {one.group: one.lane for one in subscriptions}
        self._lag = GroupLag(kafka, {one.group: one.topics for one in subscriptions})
        self._clocks: dict[tuple[str, str, int], LagClock] = {}
        self._stalls = StallDetector(health.stall_s)
        self._reported: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="freshet-watch", daemon=True)

    async def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join, 15.0)
        self._lag.close()

    async def wait_failed(self) -> BaseException:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    def look(self, now: float) -> None:
        """Set the gauges once; a Kafka that does not answer leaves them as they are."""
        try:
            found = self._lag.partitions()
        except KafkaException as error:
            log.debug("no lag: %s", error)
            found = {}
        standing = {lane for group, rows in found.items() if self._note(lane := self._lanes[group], rows, now)}
        standing |= self._health.hung().keys()
        for part in standing - self._reported:
            log.error("standing still; stacks follow", extra={"part": part, "stacks": stacks()})
        self._reported = standing

    def _note(self, lane: str, rows: list[PartitionLag], now: float) -> bool:
        metrics = self._metrics
        for one in rows:
            clock = self._clocks.setdefault((lane, one.topic, one.partition), LagClock())
            labels = {"lane": lane, "topic": one.topic, "partition": str(one.partition)}
            metrics.lag_records.labels(**labels).set(one.records)
            metrics.lag_seconds.labels(**labels).set(clock.seconds(now, one.position, one.end))
        waiting = lane in self._health.waiting()
        behind = sum(one.records for one in rows)
        standing = self._stalls.stalled(lane, now, sum(one.position for one in rows), behind, waiting)
        metrics.stalled.labels(lane=lane).set(int(standing))
        return standing

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_S):
            self.look(time.monotonic())


async def beat(health: Health) -> None:
    """Say, for ever, that the event loop goes round."""
    try:
        while True:
            health.beat(EVENT_LOOP)
            await asyncio.sleep(BEAT_S)
    finally:
        health.end(EVENT_LOOP)


def stacks(frames: Callable[[], dict[int, Any]] = sys._current_frames) -> str:
    """What every thread is doing now."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    text = io.StringIO()
    for ident, frame in frames().items():
        print(f"thread {names.get(ident, ident)}:", file=text)
        traceback.print_stack(frame, file=text)
    return text.getvalue()
