"""A Faust agent that loses nothing: one lane, one app, one consumer group, offsets committed from our own tracker.

Owns everything that touches Faust. Faust reads, balances and heartbeats; it does not decide what is acknowledged: its
commit rule skips a record after one early ack, its batch helpers ack what nobody handled, and its consumer drops
records it has fetched when partitions are paused under it (`tests/streams/consumers/test_faust_losses.py` shows each of
them). Must not know what a lane does with a record.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, cast

import faust
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from aiokafka.structs import TopicPartition as AiokafkaPartition
from faust.app.base import BootStrategy
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.supervisors import CrashingSupervisor

from streams.consumers.assignment import Intake, MakeInFlight
from streams.errors import KAFKA_REFUSALS, FatalError
from streams.kafka.consumer import Subscription
from streams.kafka.faust_security import faust_credentials
from streams.kafka.offsets import TopicPartition
from streams.kafka.record import SourceRecord
from streams.settings import Settings
from streams.wiring.resources import Resources

log = logging.getLogger(__name__)

# Enough for a window of milliseconds to end; LLM calls that take longer are cancelled and made again.
DRAIN_S = 5.0
_COMMIT_INTERVAL_S = 1.0
# Records Faust holds per lane beyond the window; what is held is read again after a rebalance, so keep it short.
_BUFFER_RECORDS = 512
# While an LLM is down a lane reads nothing and must stay in its group: a day, not Kafka's five minutes.
_MAX_POLL_INTERVAL_S = 86_400.0


class _Thread(driver.AIOKafkaConsumerThread):
    """Faust's thread around aiokafka: notes the generation of what it fetches, and outlives a commit that fails.

    The generation is noted here because no rebalance can come between on this thread.
    """

    fetched_generation: int = -1

    async def _fetch_records(self, consumer: Any, *args: Any, **kwargs: Any) -> Any:
        records = await super()._fetch_records(consumer, *args, **kwargs)
        self.fetched_generation = consumer._coordinator.generation
        return records

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit, and leave to the next interval what Kafka does not take now; Faust's own ends the worker over it.

        A broker whose disk is full answers `UnknownError`, and one that moves the group says so: both pass. A commit
        that Kafka forbids does not.
        """
        held = {
            AiokafkaPartition(*tp): OffsetAndMetadata(at, "") for tp, at in offsets.items() if tp in self.assignment()
        }
        try:
            await self._ensure_consumer().commit(held)
        except KafkaError as error:
            if getattr(error, "errno", None) in KAFKA_REFUSALS:
                await self.crash(error)
            else:
                log.warning("commit failed: %r", error, extra={"lane": cast(LaneConsumer, self.consumer).intake.lane})
            return False
        return True


class LaneConsumer(driver.Consumer):
    """Faust's consumer with our rules for what is yielded, rewound and committed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # What Kafka confirmed; Faust's own `_committed_offset` counts commits that failed.
        self._confirmed: dict[TP, int] = {}

    @property
    def lane_app(self) -> LaneApp:
        """The app, by its own name for it."""
        assert isinstance(self.app, LaneApp)
        return self.app

    @property
    def intake(self) -> Intake:
        """The lane's, kept on its app."""
        return self.lane_app.intake

    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """Yield everything fetched, or rewind: Faust's own drops records of partitions paused after the fetch."""
        records, _ = await self._wait_next_records(timeout)
        generation = cast(_Thread, self._thread).fetched_generation
        if not records or self.should_stop:
            return
        for tp, record in self.scheduler.iterate(records):
            if not self.flow_active or generation != self.app.consumer_generation_id:
                await self.rewind()
                return
            message = self._to_message(tp, record)
            message.generation_id = generation
            yield tp, message

    async def rewind(self) -> None:
        """Read again from the committed offsets; the intake knows what it has seen."""
        if self.assignment() and not self.should_stop:
            try:
                await self.perform_seek()
            except IllegalStateError:  # a rebalance took a partition meanwhile; the next assignment begins with a seek
                log.info("assignment changed while rewinding", extra={"lane": self.intake.lane})

    async def perform_seek(self) -> None:
        """Seek to the committed offsets; to the beginning where there is none (Faust stays where it is)."""
        committed = await self.seek_to_committed()
        fresh = [AiokafkaPartition(*tp) for tp, offset in committed.items() if not offset]
        if fresh:
            await self._thread.seek_to_beginning(*fresh)
        for tp, offset in committed.items():
            self._read_offset[TP(*tp)] = offset or None
            self._committed_offset[TP(*tp)] = offset or None
            self._confirmed[TP(*tp)] = offset or 0

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self.intake.open(generation_id)
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish or abandon what is under way and commit it before another member reads on."""
        await self.release()
        await super().on_partitions_revoked(revoked)

    async def release(self) -> None:
        """Flush the window, commit what is durable, forget the assignment."""
        await self.intake.release(DRAIN_S)
        if self._thread._consumer is not None and self.assignment():
            await self.maybe_wait_for_commit_to_finish()
            await self.force_commit()
        self.intake.forget()

    def _filter_committable_offsets(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Faust asks what may be committed; the tracker answers."""
        positions = {TP(topic, partition): offset for (topic, partition), offset in self.intake.positions().items()}
        return {tp: offset for tp, offset in positions.items() if offset > self._confirmed.get(tp, 0)}

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        committed: bool = await super()._commit(offsets)
        if committed:
            self._confirmed.update(offsets)
            self.lane_app.on_committed({(tp.topic, tp.partition): offset for tp, offset in offsets.items()})
        return committed


class _Transport(driver.Transport):
    Consumer = LaneConsumer


class _Boot(BootStrategy):
    enable_web = False  # `web_enabled=False` alone still binds 0.0.0.0:6066 in some start-up paths


class LaneApp(faust.App):
    """A Faust app for one lane: no web server, no tables, no files, no topics of its own."""

    BootStrategy = _Boot

    def __init__(self, settings: Settings, group: str, intake: Intake, on_committed: Callable[..., None]) -> None:
        self.intake = intake
        self.on_committed = on_committed
        super().__init__(
            group,
            broker=[f"kafka://{server}" for server in settings.kafka.servers.split(",")],
            broker_credentials=faust_credentials(settings),
            autodiscover=False,
            store="memory://",
            web_enabled=False,
            web_tables_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            stream_wait_empty=False,  # the intake is waited for, with a limit
            stream_buffer_maxsize=_BUFFER_RECORDS,
            consumer_auto_offset_reset="earliest",
            broker_commit_interval=_COMMIT_INTERVAL_S,
            broker_max_poll_interval=_MAX_POLL_INTERVAL_S,
            broker_session_timeout=settings.kafka.session_timeout_s,
            broker_heartbeat_interval=settings.kafka.session_timeout_s / 10,
        )

    def _new_transport(self) -> _Transport:
        return _Transport(self.conf.broker_consumer, self, loop=self.loop)

    def _create_directories(self) -> None:
        """Nothing of ours lives in files."""


class FaustConsumer:
    """One lane on Faust; see `streams.lanes.lane.Lane`."""

    def __init__(
        self,
        subscription: Subscription,
        resources: Resources,
        make_in_flight: MakeInFlight,
        *,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        """Read the topics into what `make_in_flight` makes; `prepare` runs in a thread before the first record."""
        self.name = subscription.lane
        self._subscription = subscription
        self._resources = resources
        self._make_in_flight = make_in_flight
        self._prepare = prepare
        self._app: LaneApp | None = None
        self._intake: Intake | None = None

    async def start(self) -> None:
        if self._prepare is not None:
            await asyncio.to_thread(self._prepare)
        self._intake = Intake(self.name, self._resources.metrics, self._make_in_flight)
        self._app = LaneApp(self._resources.settings, self._subscription.group, self._intake, self._note_commit)
        topic = self._app.topic(
            *self._subscription.topics, key_serializer="raw", value_serializer="raw", allow_empty=True
        )
        self._app.agent(topic, name=self.name, concurrency=1, supervisor_strategy=CrashingSupervisor)(self._read)
        self._app.finalize()
        await self._app.start()

    async def stop(self) -> None:
        if self._app is None or self._intake is None:
            return
        consumer = cast(LaneConsumer, self._app.consumer)
        consumer.stop_flow()
        if self._app.crashed:
            await self._intake.release(0.0)
        else:
            await consumer.release()
        await self._app.stop()

    async def wait_failed(self) -> BaseException:
        assert self._app is not None
        assert self._intake is not None
        crashed: asyncio.Future[Any] = asyncio.ensure_future(self._app._crashed.wait())
        try:
            waits: list[asyncio.Future[Any]] = [crashed, self._intake.failed]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            crashed.cancel()
        if self._intake.failed.done():
            return self._intake.failed.result()
        return self._app.crash_reason or FatalError(f"{self.name}: Faust stopped without saying why")

    async def _read(self, stream: Any) -> None:
        """The agent: hand every event to the intake; never raise, never ack."""
        assert self._app is not None
        assert self._intake is not None
        try:
            async for event in stream.noack().events():
                message = event.message
                taken = await self._intake.take(_source_record(message), message.generation_id)
                # Between two assignments the next one starts from what is committed anyhow.
                if not taken and self._intake.generation is not None and not self._intake.failed.done():
                    await cast(LaneConsumer, self._app.consumer).rewind()
        except Exception as error:
            self._intake.fail(error)

    def _note_commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        for (topic, partition), offset in offsets.items():
            labels = {"lane": self.name, "topic": topic, "partition": str(partition)}
            self._resources.metrics.position.labels(**labels).set(offset)


def _source_record(message: Any) -> SourceRecord:
    headers = message.headers.items() if isinstance(message.headers, Mapping) else message.headers or ()
    return SourceRecord(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp=max(0, round((message.timestamp or 0.0) * 1000)),
        key=message.key,
        value=message.value,
        headers=tuple(headers),
    )
