"""Publishes what a lane made of its records, confirmed, in order, until the broker has taken all of it.

Owns the difference between a result, a deletion and a dead letter on their way out. Must not acknowledge: its caller
does, after `publish` has returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from streams.backoff import Backoff
from streams.errors import Family, Reason, family, reason
from streams.kafka.dead_letters import DeadLetterProducer
from streams.kafka.producer import Delivery, Producer
from streams.kafka.record import SourceRecord
from streams.kafka.tracing import child


@dataclass(frozen=True, slots=True)
class Output:
    """One record to publish for `source`; a null value deletes.

    `timestamp` becomes the Kafka record's (0: the time of sending), `event_time` is what freshness counts from
    (0: not counted); both in milliseconds.
    """

    source: SourceRecord
    topic: str
    key: bytes
    value: bytes | None
    timestamp: int = 0
    event_time: int = 0

    @property
    def outcome(self) -> str:
        """Label of the metric `records`."""
        return "deleted" if self.value is None else "done"


@dataclass(frozen=True, slots=True)
class DeadLetterOutput:
    """One dead letter for `source`."""

    source: SourceRecord
    reason: Reason
    stage: str
    error: BaseException | None = None
    event_time: int = 0

    @property
    def outcome(self) -> str:
        """Label of the metric `records`."""
        return "dead_letter"

    @classmethod
    def of(cls, source: SourceRecord, stage: str, error: BaseException) -> DeadLetterOutput:
        """From a poison error; raises `TypeError` for one without a reason."""
        return cls(source, reason(error), stage, error)


Outgoing = Output | DeadLetterOutput


class Publisher:
    """Sends in the order given; returns when everything is confirmed."""

    def __init__(self, producer: Producer, dead_letters: DeadLetterProducer, backoff: Backoff, lane: str) -> None:
        self._producer = producer
        self._dead_letters = dead_letters
        self._backoff = backoff
        self._lane = lane

    async def publish(self, outgoing: Sequence[Outgoing]) -> list[Outgoing]:
        """Deliver all of `outgoing` and return what was delivered.

        What the broker refuses for its size becomes a dead letter of its source. After a transient failure the first
        undelivered record and all after it are sent again, so that the last record of a key stays the last.
        Raises fatal errors only.
        """
        left, sent = list(outgoing), list[Outgoing]()
        while left:
            done = await self._backoff.persevere(lambda batch=tuple(left): self._send(batch, sent))  # type: ignore[misc]
            left = left[done:]
        return sent

    async def _send(self, batch: Sequence[Outgoing], sent: list[Outgoing]) -> int:
        """Send `batch`, note its delivered head in `sent`, return the head's length or raise where it is empty."""
        waits: list[Future[Delivery]] = []
        try:
            for one in batch:
                waits.append(self._hand_over(one))
        except Exception as error:
            if not waits or family(error) is not Family.TRANSIENT:
                raise
        results = await asyncio.gather(*map(asyncio.wrap_future, waits), return_exceptions=True)
        head = 0
        for one, result in zip(batch, results, strict=False):
            if not isinstance(result, BaseException):
                sent.append(one)
            elif isinstance(one, Output) and family(result) is Family.POISON:
                dead_letter = DeadLetterOutput.of(one.source, f"{self._lane}/publish", result)
                await self._backoff.persevere(partial(self._delivered, dead_letter))
                sent.append(dead_letter)
            elif head and family(result) is Family.TRANSIENT:
                break
            else:
                raise result
            head += 1
        return head

    async def _delivered(self, dead_letter: DeadLetterOutput) -> Delivery:
        return await asyncio.wrap_future(self._hand_over(dead_letter))

    def _hand_over(self, one: Outgoing) -> Future[Delivery]:
        if isinstance(one, DeadLetterOutput):
            return self._dead_letters.send(one.source, one.reason, one.stage, error=one.error)
        self._dead_letters.good(one.source.topic, one.source.partition)
        header = child(one.source, self._lane)
        return self._producer.send(one.topic, one.key, one.value, headers=[header], timestamp=one.timestamp)
