"""An in-memory broker: enough of Kafka for lane cores to run without one, with failures on demand.

Owns `FakeBroker` (what was produced, per topic) and `FakeProducer` (the `streams.kafka.producer.Producer` protocol over
it).
"""

from __future__ import annotations

from collections import defaultdict, deque
from concurrent.futures import Future
from dataclasses import dataclass, field

from streams.kafka.producer import Delivery, Headers
from streams.kafka.record import SourceRecord


@dataclass
class FakeBroker:
    """Topics of one partition each, as lists of records in the order they were confirmed."""

    logs: dict[str, list[SourceRecord]] = field(default_factory=lambda: defaultdict(list))

    def append(
        self, topic: str, key: bytes | None, value: bytes | None, *, headers: Headers = (), timestamp: int = 0
    ) -> SourceRecord:
        """Store one record and return it with its position."""
        log = self.logs[topic]
        record = SourceRecord(topic, 0, len(log), timestamp or 1_000, key, value, tuple(headers))
        log.append(record)
        return record

    def values(self, topic: str) -> list[bytes | None]:
        """What was produced to `topic`, oldest first."""
        return [record.value for record in self.logs[topic]]

    def latest(self, topic: str) -> dict[bytes | None, bytes | None]:
        """What compaction would leave: the newest value of each key."""
        return {record.key: record.value for record in self.logs[topic]}


class FakeProducer:
    """Confirms at once, or raises or fails in the order `failures` says; `hold()` keeps confirmations back."""

    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker
        self.failures: deque[BaseException | None] = deque()
        self._held: list[tuple[Future[Delivery], Delivery]] | None = None

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, *, headers: Headers = (), timestamp: int = 0
    ) -> Future[Delivery]:
        """See `streams.kafka.producer.Producer.send`."""
        future: Future[Delivery] = Future()
        future.set_running_or_notify_cancel()
        failure = self.failures.popleft() if self.failures else None
        if failure is not None:
            future.set_exception(failure)
            return future
        record = self.broker.append(topic, key, value, headers=headers, timestamp=timestamp)
        delivery = Delivery(topic, 0, record.offset)
        if self._held is None:
            future.set_result(delivery)
        else:
            self._held.append((future, delivery))
        return future

    def hold(self) -> None:
        """From now on records are stored but not confirmed."""
        self._held = []

    def confirm(self) -> None:
        """Confirm what was held, and whatever comes."""
        held, self._held = self._held or [], None
        for future, delivery in held:
            future.set_result(delivery)

    def close(self, timeout_s: float = 10.0) -> None:
        """Nothing is under way that could be waited for."""
