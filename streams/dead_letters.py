"""Dead letters: the untouched record and why it could not be processed, confirmed before it is acknowledged.

Owns the dead-letter record and the limit that stops a worker whose partition gives nothing else. Must not decide what
is poison: `streams.errors` does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from schemas.codec import Codec
from schemas.records import DeadLetter, Header
from streams.errors import Reason, TooManyDeadLetters
from streams.metrics import Metrics
from streams.producer import Delivery, Producer
from streams.source import SourceRecord
from streams.topics import Topics

# Enough of a message to act on; a validator's message can quote a whole item.
_MESSAGE_CHARS = 1_000
OUTPUT_BYTES = 64 * 1024
"""So much of a model's raw answer is kept; nobody reads more of a loop, and the letter must fit the topic."""


class DeadLetterProducer:
    """Sends one lane's dead letters and counts their runs; safe to call from any thread."""

    def __init__(
        self, producer: Producer, codec: Codec, metrics: Metrics, clock: Callable[[], int], *, run_limit: int
    ) -> None:
        self._producer = producer
        self._codec = codec
        self._metrics = metrics
        self._clock = clock
        self._run_limit = run_limit
        self._runs: dict[tuple[str, int], tuple[int, int]] = {}  # length, and the highest offset counted
        self._lock = threading.Lock()

    def send(
        self,
        record: SourceRecord,
        reason: Reason,
        stage: str,
        *,
        error: BaseException | None = None,
        attempt: int = 1,
        schema_id: str = "",
        output: str = "",
    ) -> Future[Delivery]:
        """Send `record` to its topic's dead letters; acknowledge it only after the future has ended well.

        `stage` is the lane and the step, such as `item-text/decode`; `output` is a model's raw answer (default: the
        error's own `answer`), kept up to `OUTPUT_BYTES`. Raises `TooManyDeadLetters` (fatal) where this
        would be more than `run_limit` in a row on one partition; `RegistryUnavailable` (transient) where a configured
        registry does not answer.
        """
        self._count(record)
        letter = DeadLetter(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp,
            key=record.key,
            value=record.value,
            headers=tuple(Header(name, value) for name, value in record.headers),
            reason=str(reason),
            stage=stage,
            attempt=attempt,
            exception="" if error is None else type(error).__qualname__,
            message="" if error is None else str(error)[:_MESSAGE_CHARS],
            schema_id=schema_id or str(getattr(error, "schema_id", "") or ""),
            failed_time=self._clock(),
            output=_capped(output or str(getattr(error, "answer", "") or "")),
        )
        topic = Topics.dead_letters(record.topic)
        future = self._producer.send(topic, record.key, self._codec.encode(letter, topic=topic))
        self._metrics.dead_letters.labels(topic=record.topic, reason=str(reason)).inc()
        return future

    def good(self, topic: str, partition: int) -> None:
        """Note that a record of this partition was readable: its run of dead letters is over."""
        with self._lock:
            self._runs.pop((topic, partition), None)

    def _count(self, record: SourceRecord) -> None:
        with self._lock:
            run, highest = self._runs.get(record.place, (0, -1))
            if record.offset > highest:  # a letter sent again after a failure is not another dead letter
                run, highest = run + 1, record.offset
                self._runs[record.place] = run, highest
        if run > self._run_limit:
            raise TooManyDeadLetters(
                f"{record.topic}[{record.partition}]: {self._run_limit} dead letters in a row up to offset "
                f"{record.offset}; look at {Topics.dead_letters(record.topic)}, then raise FRESHET_DEAD_LETTER_RUN or "
                "fix the producer"
            )


def _capped(output: str) -> str:
    """The beginning of `output` as UTF-8 that any reader decodes: whole characters, no lone surrogates."""
    return output.encode(errors="replace")[:OUTPUT_BYTES].decode(errors="ignore")
