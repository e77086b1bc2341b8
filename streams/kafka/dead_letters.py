"""Dead letters: the untouched record and why it could not be processed, confirmed before it is acknowledged.

Owns the dead-letter record. Must not decide what is poison (`streams.errors` does), nor how many dead letters are too
many (`streams.kafka.dead_letter_limits` does).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from freshet.records import DeadLetter, Header
from schemas.codec import Codec
from streams.errors import Reason
from streams.kafka.dead_letter_limits import DeadLetterLimits, LimitCounter
from streams.kafka.producer import Delivery, Producer
from streams.kafka.record import SourceRecord
from streams.kafka.topics import Topics
from streams.kafka.tracing import trace_id
from streams.metrics import Metrics

log = logging.getLogger(__name__)

# Enough of a message to act on; a validator's message can quote a whole item.
_MESSAGE_CHARS = 1_000
ATTEMPT_HEADER = "freshet-dlq-attempt"
"""Header of a record that `freshet dlq replay` sent again: how often it had been tried."""
OUTPUT_BYTES = 64 * 1024
"""So much of a model's raw answer is kept; nobody reads more of a loop, and the dead letter must fit the topic."""


class DeadLetterProducer:
    """Sends one lane's dead letters, within its limits; safe to call from any thread."""

    def __init__(
        self,
        producer: Producer,
        codec: Codec,
        metrics: Metrics,
        clock: Callable[[], int],
        *,
        limits: DeadLetterLimits,
    ) -> None:
        self._producer = producer
        self._codec = codec
        self._metrics = metrics
        self._clock = clock
        self._counter = LimitCounter(limits)
        self._lock = threading.Lock()

    def send(
        self,
        record: SourceRecord,
        reason: Reason,
        stage: str,
        *,
        error: BaseException | None = None,
        schema_id: str = "",
        output: str = "",
    ) -> Future[Delivery]:
        """Send `record` to its topic's dead letters; acknowledge it only after the future has ended well.

        `stage` is the lane and the step, such as `item-text/decode`; `output` is a model's raw answer (default: the
        error's own `answer`), kept up to `OUTPUT_BYTES`. Raises `TooManyDeadLetters` (fatal) where this
        would be more than the limits allow on one partition; `RegistryUnavailable` (transient) where a configured
        registry does not answer.
        """
        with self._lock:
            self._counter.bad(record.topic_partition, record.offset, str(reason))
        dead_letter = DeadLetter(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp,
            key=record.key,
            value=record.value,
            headers=tuple(Header(name, value) for name, value in record.headers),
            reason=str(reason),
            stage=stage,
            attempt=1 + _tried(record),
            exception="" if error is None else type(error).__qualname__,
            message="" if error is None else str(error)[:_MESSAGE_CHARS],
            schema_id=schema_id or str(getattr(error, "schema_id", "") or ""),
            failed_time=self._clock(),
            output=_capped(output or str(getattr(error, "answer", "") or "")),
        )
        topic = Topics.dead_letters(record.topic)
        future = self._producer.send(topic, record.key, self._codec.encode(dead_letter, topic=topic))
        self._metrics.dead_letters.labels(topic=record.topic, reason=str(reason)).inc()
        if log.isEnabledFor(logging.DEBUG):
            source = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
            why = {"reason": str(reason), "stage": stage, "trace_id": trace_id(record)}
            log.debug("dead letter", extra={**source, **why})
        return future

    def good(self, topic: str, partition: int, count: int = 1) -> None:
        """Note that `count` records of this partition were readable: its run of dead letters is over."""
        with self._lock:
            self._counter.good((topic, partition), count)


def _tried(record: SourceRecord) -> int:
    """How often the record had been tried when it was sent again; 0 for one that comes for the first time."""
    tried = next((value for name, value in record.headers if name == ATTEMPT_HEADER), None)
    return min(int(tried), 1_000_000) if tried and tried.isdigit() and len(tried) < 8 else 0


def _capped(output: str) -> str:
    """The beginning of `output` as UTF-8 that any reader decodes: whole characters, no lone surrogates."""
    return output.encode(errors="replace")[:OUTPUT_BYTES].decode(errors="ignore")
