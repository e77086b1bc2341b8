"""Confirmed delivery to Kafka: a send is a future that ends when every replica has the record.

Owns the client settings every Kafka client of the worker shares and the producer's. Must not encode records, and must
not call a record sent before the broker has said so.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Producer as ConfluentProducer

from streams.errors import DeliveryFailed, RecordTooLarge, kafka_retriable
from streams.kafka.security import librdkafka
from streams.kafka.topics import DEAD_LETTER_BYTES
from streams.settings import Settings

Headers = Sequence[tuple[str, bytes | None]]


class Delivery(NamedTuple):
    """Where a confirmed record stands."""

    topic: str
    partition: int
    offset: int


class Producer(Protocol):
    """What lanes and dead letters need of a producer; `KafkaProducer`, or the fake of the tests."""

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, *, headers: Headers = (), timestamp: int = 0
    ) -> Future[Delivery]:
        """Hand over one record (`timestamp` in epoch milliseconds, 0 = now).

        The future ends with its `Delivery`, or with `RecordTooLarge` (poison), `DeliveryFailed` (transient) or a
        `KafkaException` that `errors.family` judges. Records of one key sent in order are delivered in order.
        """
        ...

    def close(self, timeout_s: float = 10.0) -> None:
        """Wait for what is under way, at most `timeout_s`, and stop."""
        ...


async def delivered(futures: Sequence[Future[Delivery]]) -> list[Delivery]:
    """Wait for all of `futures` from an event loop; raises the first error after every one has ended."""
    waits = [asyncio.wrap_future(future) for future in futures]
    results = await asyncio.gather(*waits, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, Delivery)]


def kafka_config(settings: Settings, **more: Any) -> dict[str, Any]:
    """The librdkafka settings of every client: where the brokers are, and `more`."""
    return {
        "bootstrap.servers": settings.kafka.servers,
        **librdkafka(settings),
        "client.id": "freshet",
        "socket.keepalive.enable": True,
        # Brokers that come back are found within seconds, not after librdkafka's 10 s.
        "reconnect.backoff.max.ms": 2_000,
        "log.connection.close": False,
        **more,
    }


def producer_config(settings: Settings, **more: Any) -> dict[str, Any]:
    """Settings of a producer that never calls a record safe too early."""
    return kafka_config(
        settings,
        **{
            "acks": "all",
            "enable.idempotence": True,
            # The Java client's partitioner: a platform's own producers put the same key in the same partition.
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "compression.type": "lz4",
            "message.max.bytes": DEAD_LETTER_BYTES,
            # A lane sends again after this long; until then librdkafka retries by itself, in order.
            "delivery.timeout.ms": 60_000,
            **more,
        },
    )


class KafkaProducer:
    """A confluent producer with a thread of its own that serves delivery reports; safe to call from any thread."""

    def __init__(self, settings: Settings, **more: Any) -> None:
        self._producer = ConfluentProducer(producer_config(settings, **more))
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="freshet-producer", daemon=True)
        self._thread.start()

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, *, headers: Headers = (), timestamp: int = 0
    ) -> Future[Delivery]:
        """See `Producer.send`; blocks only while the local queue (100 thousand records) is full."""
        future: Future[Delivery] = Future()
        future.set_running_or_notify_cancel()  # a record under way can not be taken back
        while True:
            try:
                self._producer.produce(
                    topic,
                    key=key,
                    value=value,
                    headers=list(headers),
                    timestamp=timestamp,
                    on_delivery=lambda error, message: _settle(future, error, message),
                )
                return future
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                future.set_exception(_delivery_error(error.args[0]))
                return future

    def close(self, timeout_s: float = 10.0) -> None:
        """See `Producer.close`; records that could not be delivered in time end with `DeliveryFailed`."""
        self._producer.flush(timeout_s)
        self._producer.purge()
        self._producer.flush(1.0)
        self._closing.set()
        self._thread.join(timeout=5.0)
        self._producer.close()  # else its connections live on, and complain, until the last reference goes

    def _serve(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(0.2)


def _settle(future: Future[Delivery], error: KafkaError | None, message: Any) -> None:
    if error is None:
        future.set_result(Delivery(message.topic(), message.partition(), message.offset()))
    else:
        future.set_exception(_delivery_error(error))


# Beyond what passes by itself: this client gave up on the record, not on the producer; sending again may work.
_RESEND = frozenset(
    {
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)


def _delivery_error(error: KafkaError) -> Exception:
    if error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE):
        return RecordTooLarge(str(error))
    if not error.fatal() and (kafka_retriable(error) or error.code() in _RESEND):
        return DeliveryFailed(str(error))
    return KafkaException(error)
