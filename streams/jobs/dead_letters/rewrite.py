"""Removes chosen dead letters from a dead-letter topic.

Kafka deletes no single record of a log, only all before an offset. So, partition by partition: 1. the dead letters that
stay, of those before the last one that goes, are appended again, byte by byte with key, headers and timestamp; 2. when
all are confirmed, everything up to that last one is deleted. A crash in between leaves dead letters twice, which their
position folds. What workers append meanwhile stands behind and is not touched. Two rewriters at once would bring back
what the other one removes: a lock in Redis keeps them apart.

Owns that procedure. Must not decide what goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from redis.exceptions import LockError

from freshet.connect import Client, keys_for
from schemas.codec import Codec
from streams.jobs.dead_letters.read import StoredDeadLetter, dead_letter_ranges, read_dead_letters
from streams.kafka.producer import Delivery, KafkaProducer, kafka_config
from streams.kafka.ranges import Range
from streams.settings import Settings

_LOCK_S = 60.0
_WAIT_S = 5.0
# Confirmed in parts: a topic of dead letters of four megabytes each must not stand in the producer's queue.
_IN_FLIGHT = 500
_TIMEOUT_S = 60.0


class Busy(RuntimeError):
    """Somebody else removes dead letters of this topic; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many dead letters went, and how many were appended again for it."""

    dropped: int
    kept: int


def drop(
    settings: Settings, client: Client, codec: Codec, topic: str, which: Callable[[StoredDeadLetter], bool]
) -> Dropped:
    """Remove those dead letters of `topic` that `which` is true of; called twice for each, it must answer the same.

    Safe to repeat. Raises `Busy`, `NoTopic`, `KafkaException`, `streams.errors.DeliveryFailed`.
    """
    with _alone(settings, client, topic) as extend:
        found = dead_letter_ranges(settings, topic)
        last: dict[int, int] = {}
        dropped = 0
        for dead_letter in read_dead_letters(settings, codec, found):
            extend()
            if which(dead_letter):
                dropped += 1
                last[dead_letter.record.partition] = dead_letter.record.offset
        going = [replace(one, end=last[one.partition] + 1) for one in found if one.partition in last]
        if not going:
            return Dropped(0, 0)
        kept = _append_again(settings, codec, going, which, extend)
        _delete_before(settings, going)
        return Dropped(dropped, kept)


def _append_again(
    settings: Settings,
    codec: Codec,
    ranges: list[Range],
    which: Callable[[StoredDeadLetter], bool],
    extend: Callable[[], None],
) -> int:
    producer = KafkaProducer(settings)
    kept = 0
    waits: list[Future[Delivery]] = []
    try:
        for dead_letter in read_dead_letters(settings, codec, ranges):
            extend()
            if which(dead_letter):
                continue
            kept += 1
            one = dead_letter.record
            waits.append(
                producer.send(one.topic, one.key, one.value, headers=one.headers, timestamp=max(1, one.timestamp))
            )
            if len(waits) >= _IN_FLIGHT:
                _confirm(waits)
        _confirm(waits)
    finally:
        producer.close()
    return kept


def _confirm(waits: list[Future[Delivery]]) -> None:
    for wait in waits:
        wait.result(_TIMEOUT_S)
    waits.clear()


def _delete_before(settings: Settings, ranges: Sequence[Range]) -> None:
    bounds = [TopicPartition(one.topic, one.partition, one.end) for one in ranges]
    with AdminClient(kafka_config(settings)) as admin:
        for future in admin.delete_records(bounds, request_timeout=_TIMEOUT_S).values():
            future.result()


@contextmanager
def _alone(settings: Settings, client: Any, topic: str) -> Iterator[Callable[[], None]]:
    """Hold the topic's lock; what is yielded keeps it, and raises where it was lost."""
    lock = client.lock(
        keys_for(client, settings.key_prefix).rewriting(topic), timeout=_LOCK_S, blocking_timeout=_WAIT_S
    )
    if not lock.acquire():
        raise Busy(f"dead letters of {topic} are being removed by somebody else; try again in a minute")
    beats = 0

    def extend() -> None:
        nonlocal beats
        beats += 1
        if beats % _IN_FLIGHT == 0:
            lock.reacquire()

    try:
        yield extend
    except LockError as error:
        raise Busy(f"{topic}: the lock was lost; nothing was deleted, try again") from error
    finally:
        if lock.owned():
            lock.release()
