"""Sends items and events in bulk: from rows to confirmed Kafka records, at a given rate or as fast as it goes.

Owns pacing and the tally. Must not read files (`schemas.files`) nor draw progress (the command line does).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
from confluent_kafka import KafkaError, Producer

from freshet.records import Item, UserEvent
from schemas.codec import Codec
from streams.kafka.producer import producer_config
from streams.settings import Settings

Keyed = tuple[bytes, bytes]
"""Key and value of one record."""

_CHUNK = 1_000
_ERRORS_KEPT = 5


@dataclass(slots=True)
class SendCounts:
    """What became of the records handed over."""

    confirmed: int = 0
    failed: int = 0
    seconds: float = 0.0
    errors: tuple[str, ...] = ()

    @property
    def per_second(self) -> float:
        """Confirmed records per second."""
        return self.confirmed / self.seconds if self.seconds else 0.0


def keyed_items(items: Iterable[Item], codec: Codec, topic: str) -> Iterator[Keyed]:
    """Encode items under their id."""
    for item in items:
        yield item.item_id.encode(), codec.encode(item, topic)


def keyed_events(table: pa.Table, codec: Codec, topic: str) -> Iterator[Keyed]:
    """Encode the rows of `files.EVENT_SCHEMA` under their user, in order."""
    for batch in table.to_batches(max_chunksize=10_000):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            event = UserEvent(*row)
            yield event.user_id.encode(), codec.encode(event, topic)


def send(
    settings: Settings,
    topic: str,
    records: Iterable[Keyed],
    *,
    rate: float = 0.0,
    progress: Callable[[int], None] = lambda _: None,
) -> SendCounts:
    """Send `records`, at most `rate` a second (0: no limit), and wait for every confirmation.

    `progress` hears how many records have been handed over since it was last called. On an interruption what was
    handed over is still delivered before the exception goes on.
    """
    producer = Producer(producer_config(settings, **{"queue.buffering.max.messages": 200_000, "linger.ms": 20}))
    tally = SendCounts()

    def settle(error: KafkaError | None, _message: Any) -> None:
        if error is None:
            tally.confirmed += 1
        else:
            tally.failed += 1
            if len(tally.errors) < _ERRORS_KEPT:
                tally.errors = (*tally.errors, error.str())

    began = time.monotonic()
    sent = 0
    try:
        rows = iter(records)
        while chunk := list(islice(rows, _chunk_size(rate))):
            for key, value in chunk:
                _produce(producer, topic, key, value, settle)
            producer.poll(0)
            sent += len(chunk)
            progress(len(chunk))
            if rate:
                time.sleep(max(0.0, began + sent / rate - time.monotonic()))
    finally:
        producer.flush()
        tally.seconds = time.monotonic() - began
    return tally


def _chunk_size(rate: float) -> int:
    """Small enough that a slow rate is even, large enough that a fast one is not all sleeping."""
    return max(1, min(_CHUNK, int(rate / 20))) if rate else _CHUNK


def _produce(producer: Producer, topic: str, key: bytes, value: bytes, settle: Callable[..., None]) -> None:
    while True:
        try:
            producer.produce(topic, value, key, on_delivery=settle)
            return
        except BufferError:
            producer.poll(0.1)
