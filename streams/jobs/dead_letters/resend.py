"""Sends dead letters' records back to where they came from, untouched, through the normal lanes.

Owns what is sent: key, value and headers as they were, the Kafka timestamp too (a deletion is as old as it says, and
what is older than what stands must not win), and two headers that say where the record comes from and how often it has
been tried. Must not choose, nor remove the dead letters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future

from streams.jobs.dead_letters.read import StoredDeadLetter
from streams.kafka.dead_letters import ATTEMPT_HEADER
from streams.kafka.producer import Delivery, Producer

POSITION_HEADER = "freshet-dlq-position"
_IN_FLIGHT = 500
_TIMEOUT_S = 60.0


def send_again(
    producer: Producer,
    dead_letters: Iterable[StoredDeadLetter],
    *,
    pace: Callable[[], None],
    sent: Callable[[StoredDeadLetter], None],
) -> int:
    """Send the record of each dead letter once, however many lanes refused it; answers how many.

    `pace` is called before each and may wait; `sent` after it is confirmed. Raises `streams.errors.DeliveryFailed`,
    `RecordTooLarge`, `KafkaException`: what `sent` was not called with may be sent again.
    """
    seen = set()
    waits: list[tuple[StoredDeadLetter, Future[Delivery]]] = []
    for dead_letter in dead_letters:
        if dead_letter.content is None or dead_letter.position in seen:
            continue
        seen.add(dead_letter.position)
        pace()
        one = dead_letter.content
        headers = [
            (name, value) for name, value in _headers(dead_letter) if name not in (ATTEMPT_HEADER, POSITION_HEADER)
        ]
        headers += [
            (ATTEMPT_HEADER, str(one.attempt).encode()),
            (POSITION_HEADER, str(dead_letter.position).encode()),
        ]
        timestamp = max(1, one.timestamp)
        waits.append((dead_letter, producer.send(one.topic, one.key, one.value, headers=headers, timestamp=timestamp)))
        if len(waits) >= _IN_FLIGHT:
            _confirm(waits, sent)
    _confirm(waits, sent)
    return len(seen)


def _headers(dead_letter: StoredDeadLetter) -> list[tuple[str, bytes | None]]:
    assert dead_letter.content is not None
    return [(header.name, header.value) for header in dead_letter.content.headers]


def _confirm(waits: list[tuple[StoredDeadLetter, Future[Delivery]]], sent: Callable[[StoredDeadLetter], None]) -> None:
    for dead_letter, wait in waits:
        wait.result(_TIMEOUT_S)
        sent(dead_letter)
    waits.clear()
