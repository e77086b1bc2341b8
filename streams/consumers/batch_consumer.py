"""A batched Kafka loop on a thread of its own: read, write, acknowledge, one batch after the other.

Owns consuming, acknowledgement, back-pressure and rebalances of the lanes that move many small records. Must not know
what a batch means: a `Handler` does. Nothing is in hand between two batches, so a rebalance there only has to commit;
inside one, what belongs to partitions that leave is dropped, and read again by whoever gets them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as ConfluentPartition

from streams.backoff import Retries
from streams.errors import KAFKA_REFUSALS, Family, family
from streams.kafka.batch import NOTHING, Batch, Handler, Message, Rejected
from streams.kafka.consumer import Subscription, consumer_config
from streams.kafka.offsets import OffsetTracker, TopicPartition
from streams.kafka.producer import Delivery
from streams.kafka.record import SourceRecord
from streams.wiring.resources import Resources

T = TypeVar("T")
log = logging.getLogger(__name__)

BATCH_RECORDS = 10_000
LINGER_S = 0.05
"""A batch that does not fill up is handled after this long: what the lane adds to freshness on a quiet topic."""
COMMIT_INTERVAL_S = 0.5
STOP_S = 30.0


class _Abandoned(Exception):
    """The lane stops while a dependency is away: what is in hand will be read again."""


class BatchConsumer:
    """One consumer group on a thread; see `streams.lanes.lane.Lane`."""

    def __init__(self, subscription: Subscription, resources: Resources, handler: Handler) -> None:
        self.name = subscription.lane
        self._subscription = subscription
        self._resources = resources
        self._handler = handler
        self._thread: threading.Thread | None = None
        self._loop: _Loop | None = None
        self._failed: asyncio.Future[BaseException] | None = None

    async def start(self) -> None:
        events = asyncio.get_running_loop()
        failed = self._failed = events.create_future()

        def note(error: BaseException) -> None:
            if not failed.done():
                failed.set_result(error)

        def fail(error: BaseException) -> None:
            events.call_soon_threadsafe(note, error)

        self._loop = _Loop(self._subscription, self._resources, self._handler, fail)
        self._thread = threading.Thread(target=self._loop.run, name=f"freshet-{self.name}", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        if self._loop is None or self._thread is None:
            return
        self._loop.stopping.set()
        await asyncio.to_thread(self._thread.join, STOP_S)

    async def wait_failed(self) -> BaseException:
        assert self._failed is not None, "not started"
        return await asyncio.shield(self._failed)


class _Loop:
    """What runs on the thread. Kafka's callbacks come on it too, from within `consume` and `close`."""

    def __init__(
        self,
        subscription: Subscription,
        resources: Resources,
        handler: Handler,
        fail: Callable[[BaseException], None],
    ) -> None:
        self.stopping = threading.Event()
        self._name = name = subscription.lane
        self._metrics = resources.metrics
        self._health, self._part = resources.health, f"lane {name}"
        self._retries = Retries(name, resources.metrics, resources.health)
        self._dead_letters = resources.dead_letters()
        self._handler = handler
        self._fail = fail
        self._batch_size = BATCH_RECORDS
        self._tracker = OffsetTracker()
        self._assigned: set[TopicPartition] = set()
        self._paused = False
        self._hand = NOTHING  # what is being written
        self._early: list[Message] = []  # what came while everything was paused
        self._committed: dict[TopicPartition, int] = {}
        self._commit_at = 0.0
        self._broken: BaseException | None = None
        self._consumer = Consumer(
            consumer_config(resources.settings, subscription.group, error_cb=self._on_error, on_commit=self._on_commit)
        )
        self._consumer.subscribe(
            list(subscription.topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def run(self) -> None:
        """Until `stopping` is set, or an error that is not transient."""
        try:
            while not self.stopping.is_set():
                self._health.beat(self._part)
                batch = self._next()
                if batch.messages:
                    self._carry_out(batch)
                if time.monotonic() >= self._commit_at:
                    self._commit(self._tracker.positions(), wait=False)
        except _Abandoned:
            log.warning("stopped with records in hand, to be read again", extra={"lane": self._name})
        except BaseException as error:
            log.error("lane failed", extra={"lane": self._name, "cause": repr(error)})
            self._fail(error)
        finally:
            self._health.end(self._part)
            self._commit(self._tracker.positions(), wait=True)
            self._consumer.close()

    def _next(self) -> Batch:
        if self._early:
            messages, self._early = self._early, []
        else:
            messages = self._checked(self._consumer.consume(self._batch_size, LINGER_S))
        return Batch.of(messages).keep(self._assigned)

    def _checked(self, messages: list[Message]) -> list[Message]:
        """`messages` without those that are a report of an error; raises the error that ends the lane."""
        if self._broken is not None:
            raise self._broken
        good = [message for message in messages if message.error() is None]
        if len(good) < len(messages):
            for message in messages:
                if (error := message.error()) is not None:
                    self._judge(error)
        return good

    def _judge(self, error: KafkaError) -> None:
        wrapped = KafkaException(error)
        if error.code() not in _BEARABLE and family(wrapped) is not Family.TRANSIENT:
            raise wrapped
        log.warning("report from Kafka", extra={"lane": self._name, "cause": str(error)})

    def _carry_out(self, batch: Batch) -> None:
        """One batch: 1. register, 2. write, 3. dead letters, 4. finish; commit comes later and may come any time."""
        started = time.perf_counter()
        self._hand = batch
        tickets = [self._tracker.register(tp, *span) for tp, span in batch.spans().items()]
        self._metrics.in_flight.labels(lane=self._name).set(len(batch))
        rejected = self._persevere(lambda: self._handler.write(self._hand))
        self._send_dead_letters(self._hand, {one.row: one for one in rejected})
        for ticket in tickets:
            self._tracker.finish(ticket)  # of no effect where the partition has left
        self._hand = NOTHING
        self._metrics.in_flight.labels(lane=self._name).set(0)
        self._metrics.batch_records.labels(lane=self._name).observe(len(batch))
        self._metrics.batch_seconds.labels(lane=self._name).observe(time.perf_counter() - started)

    def _send_dead_letters(self, batch: Batch, dead_letters: Mapping[int, Rejected]) -> None:
        """Send and confirm the rejected rows, and note the good ones: each ends a run of dead letters."""
        if not dead_letters:
            for tp, count in Counter(batch.partitions).items():
                self._dead_letters.good(*tp, count)
            return
        sent: dict[int, Future[Delivery]] = {}

        def attempt() -> None:
            for row, tp in enumerate(batch.partitions):
                if row not in dead_letters:
                    self._dead_letters.good(*tp)
                elif row not in sent:
                    one, record = dead_letters[row], SourceRecord.of_message(batch.messages[row])
                    sent[row] = self._dead_letters.send(record, one.reason, one.stage, error=one.error)
            failed = {row: error for row, future in sent.items() if (error := future.exception()) is not None}
            for row in failed:
                del sent[row]
            for error in failed.values():
                raise error

        self._persevere(attempt)
        self._metrics.records.labels(lane=self._name, outcome="dead_letter").inc(len(dead_letters))

    def _persevere(self, operation: Callable[[], T]) -> T:
        """Run `operation` until it succeeds; while a dependency is away, pause and poll, to stay in the group."""
        while True:
            try:
                result = operation()
            except Exception as error:
                self._retries.count(error)
                if not self._paused:
                    self._pause(True)
                self._wait(self._retries.failed(error))
            else:
                if self._retries.succeeded():
                    self._pause(False)
                return result

    def _pause(self, paused: bool) -> None:
        self._paused = paused
        partitions = [ConfluentPartition(*tp) for tp in self._assigned]
        if paused:
            self._consumer.pause(partitions)
        else:
            self._consumer.resume(partitions)

    def _wait(self, seconds: float) -> None:
        """Poll the paused consumer; a record that comes nevertheless is kept for the next batch."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._health.beat(self._part)
            if self.stopping.is_set():
                raise _Abandoned
            self._early += self._checked(self._consumer.consume(1, min(left, 0.2)))

    def _commit(self, positions: Mapping[TopicPartition, int], *, wait: bool) -> None:
        """Hand what is durable to Kafka. A commit that fails costs a redelivery, no more, and is tried again."""
        self._commit_at = time.monotonic() + COMMIT_INTERVAL_S
        fresh = {p: offset for p, offset in positions.items() if wait or self._committed.get(p) != offset}
        if not fresh:
            return
        self._committed.update(fresh)
        try:
            offsets = [ConfluentPartition(*tp, offset) for tp, offset in fresh.items()]
            if wait:
                self._on_commit(None, self._consumer.commit(offsets=offsets, asynchronous=False))
            else:
                self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._committed.clear()
            log.warning("commit failed: %s", error, extra={"lane": self._name})

    def _on_commit(self, error: KafkaError | None, partitions: Sequence[ConfluentPartition]) -> None:
        for part in partitions:
            if error is None and part.error is None:
                labels = {"lane": self._name, "topic": part.topic, "partition": str(part.partition)}
                self._metrics.position.labels(**labels).set(part.offset)
            else:
                self._committed.pop((part.topic, part.partition), None)
                log.warning("commit failed: %s", error or part.error, extra={"lane": self._name})

    def _on_assign(self, consumer: Consumer, partitions: list[ConfluentPartition]) -> None:
        consumer.incremental_assign(partitions)
        if self._paused:
            consumer.pause(partitions)
        self._assigned |= _pairs(partitions)

    def _on_revoke(self, consumer: Consumer, partitions: list[ConfluentPartition]) -> None:
        """Commit what is durable before anybody else reads on, then let go."""
        leaving = _pairs(partitions)
        positions = self._tracker.positions()
        self._commit({tp: positions[tp] for tp in leaving & positions.keys()}, wait=True)
        self._let_go(leaving)
        consumer.incremental_unassign(partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[ConfluentPartition]) -> None:
        """They belong to somebody else already: a commit now could only do harm."""
        self._let_go(_pairs(partitions))
        consumer.incremental_unassign(partitions)

    def _let_go(self, leaving: set[TopicPartition]) -> None:
        self._assigned -= leaving
        self._tracker.forget(leaving)
        self._hand = self._hand.keep(self._assigned)
        self._early = [message for message in self._early if (message.topic(), message.partition()) in self._assigned]
        for tp in leaving:
            self._committed.pop(tp, None)

    def _on_error(self, error: KafkaError) -> None:
        """An error of no record: librdkafka goes on by itself, except where it reports that it can not."""
        if error.fatal() or error.code() in KAFKA_REFUSALS:
            self._broken = KafkaException(error)
        else:
            log.warning("report from Kafka", extra={"lane": self._name, "cause": str(error)})


def _pairs(partitions: Sequence[ConfluentPartition]) -> set[TopicPartition]:
    return {(part.topic, part.partition) for part in partitions}


# A topic that is not there yet may be made any minute; a consumer that was away too long joins again by itself.
_BEARABLE = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION,
     KafkaError._MAX_POLL_EXCEEDED, KafkaError._PARTITION_EOF}
)  # fmt: skip
