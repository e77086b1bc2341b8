"""Dead letters as they stand on a topic: read whole, identified by the record they are about, chosen by a filter.

Owns reading and choosing. Must not send or remove anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from freshet.records import DeadLetter
from schemas.codec import Codec, DecodeError
from streams.kafka.ranges import Range, RangeReader
from streams.kafka.record import SourceRecord
from streams.settings import Settings

UNREADABLE = "unreadable"
"""In place of a reason: what stands on the dead-letter topic is no dead letter."""
_BATCH = 1_000


class Position(NamedTuple):
    """Where a record stands; written `items/3/1842`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """From its written form; raises `ValueError`."""
        topic, _, rest = text.strip().rpartition("/")
        topic, _, partition = topic.rpartition("/")
        if not topic or not partition.isdecimal() or not rest.isdecimal():
            raise ValueError(f"{text!r} is no position such as items/3/1842")
        return cls(topic, int(partition), int(rest))


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """One record of a dead-letter topic; `content` is None where it does not decode as a dead letter."""

    record: SourceRecord
    content: DeadLetter | None

    @property
    def position(self) -> Position:
        """The source record's: a dead letter sent twice is one dead letter. An unreadable one has its own."""
        if self.content is None:
            return Position(self.record.topic, self.record.partition, self.record.offset)
        return Position(self.content.topic, self.content.partition, self.content.offset)

    @property
    def reason(self) -> str:
        """Why, one of `streams.errors.Reason`, or `UNREADABLE`."""
        return UNREADABLE if self.content is None else self.content.reason

    @property
    def stage(self) -> str:
        """Lane and step."""
        return "" if self.content is None else self.content.stage

    @property
    def failed_ms(self) -> int:
        """When it failed, in epoch milliseconds."""
        return self.record.timestamp if self.content is None else self.content.failed_time

    @property
    def key(self) -> bytes | None:
        """The source record's key."""
        return self.record.key if self.content is None else self.content.key

    @property
    def lane(self) -> str:
        """Who could not process it. Two lanes that read one topic each send a dead letter of the same record."""
        return self.stage.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters are meant: all conditions that are set must hold. `reason` and `stage` may be several each;
    a stage is met by those that begin with it."""

    reasons: frozenset[str] = frozenset()
    stages: tuple[str, ...] = ()
    exceptions: frozenset[str] = frozenset()
    from_ms: int = 0
    to_ms: int = 0
    key: bytes | None = None
    positions: frozenset[Position] = frozenset()

    def __call__(self, dead_letter: StoredDeadLetter) -> bool:
        return (
            (not self.reasons or dead_letter.reason in self.reasons)
            and (not self.stages or dead_letter.stage.startswith(self.stages))
            and (
                not self.exceptions
                or (dead_letter.content is not None and dead_letter.content.exception in self.exceptions)
            )
            and dead_letter.failed_ms >= self.from_ms
            and (not self.to_ms or dead_letter.failed_ms < self.to_ms)
            and (self.key is None or dead_letter.key == self.key)
            and (not self.positions or dead_letter.position in self.positions)
        )

    def __bool__(self) -> bool:
        """Whether any condition is set."""
        return self != Filter()


def read_dead_letters(settings: Settings, codec: Codec, ranges: list[Range]) -> Iterator[StoredDeadLetter]:
    """Every dead letter of `ranges`, those of a partition in order. Raises `NothingCame`, `KafkaException`."""
    with RangeReader(settings) as reader:
        for messages in reader.batches(ranges, _BATCH):
            for message in messages:
                record = SourceRecord.of_message(message)
                yield StoredDeadLetter(record, _content(codec, record))


def dead_letter_ranges(settings: Settings, topic: str) -> list[Range]:
    """What a dead-letter topic holds now. Raises `NoTopic`, `KafkaException`."""
    with RangeReader(settings) as reader:
        return reader.find(topic)


def _content(codec: Codec, record: SourceRecord) -> DeadLetter | None:
    try:
        return codec.decode(DeadLetter, record.value or b"")
    except DecodeError:
        return None
