"""Ranges of Kafka offsets: which there are, and reading them to their end while others go on writing.

Owns one reader that joins no group and commits nothing. Must not know what becomes of a record.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as ConfluentPartition

from streams.errors import kafka_retriable
from streams.kafka.batch import Message
from streams.kafka.consumer import consumer_config
from streams.kafka.lag import watermarks
from streams.kafka.offsets import TopicPartition
from streams.settings import Settings

_TIMEOUT_S = 10.0
_POLL_S = 0.5
PATIENCE_S = 60.0


class NoTopic(ValueError):
    """The broker has no such topic; the message says what makes it."""


class NothingCame(TimeoutError):
    """A broker that gives no more, though there is more."""


@dataclass(frozen=True, slots=True)
class Range:
    """The records `first` up to, not including, `end` of a partition; offsets may have holes, so `len` is the most.

    `clipped`: records from before `first` are gone that may have belonged to what was asked for.
    """

    topic: str
    partition: int
    first: int
    end: int
    clipped: bool = False

    def __len__(self) -> int:
        return max(0, self.end - self.first)

    @property
    def topic_partition(self) -> TopicPartition:
        """What it is a range of."""
        return self.topic, self.partition


class RangeReader:
    """A consumer with assigned partitions; for one thread at a time.

    Its group is a name that Kafka's protocol wants: nobody ever joins it.
    """

    def __init__(self, settings: Settings) -> None:
        name = f"{settings.topic_prefix}freshet-ranges"
        # Whoever works on what was read may take hours over it: an LLM is away, a rate is low.
        patience = {"max.poll.interval.ms": 86_400_000, "enable.partition.eof": True}
        self._consumer = Consumer(consumer_config(settings, name, **patience))
        self._ends: dict[TopicPartition, int] = {}
        self._firsts: dict[TopicPartition, int] = {}
        self.open: set[TopicPartition] = set()
        """The partitions that are not at their end yet."""
        self.scanned: dict[TopicPartition, int] = {}
        """The offset after the last one that `poll` has passed, by partition."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def find(self, topic: str, *, from_ms: int = 0, to_ms: int = 0) -> list[Range]:
        """The range of each partition that its records of Kafka timestamps `from_ms` up to `to_ms` lie in.

        It begins with the first record that is as young as `from_ms` (0: the first there is) and ends before the first
        that is as young as `to_ms` (0: the present end). Raises `NoTopic`, and `KafkaException`.
        """
        metadata = self._consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
        if metadata.error is not None or not metadata.partitions:
            raise NoTopic(f"no topic {topic}; `freshet topics create` makes what is missing")
        bounds = {p: watermarks(self._consumer, ConfluentPartition(topic, p), _TIMEOUT_S) for p in metadata.partitions}
        firsts, ends = self._at(topic, bounds, from_ms, 0), self._at(topic, bounds, to_ms, 1)
        return [
            # What is gone was older than the first record that is left: of no concern if that is too old itself.
            Range(topic, p, firsts[p], max(firsts[p], ends[p]), clipped=0 < low == firsts[p])
            for p, (low, _) in sorted(bounds.items())
        ]

    def _at(self, topic: str, bounds: dict[int, tuple[int, int]], moment_ms: int, side: int) -> dict[int, int]:
        """The first offset as young as `moment_ms` of each partition, its end where there is none."""
        if not moment_ms:
            return {p: bound[side] for p, bound in bounds.items()}
        asked = [ConfluentPartition(topic, p, moment_ms) for p in bounds]
        found = self._consumer.offsets_for_times(asked, timeout=_TIMEOUT_S)
        return {one.partition: one.offset if one.offset >= 0 else bounds[one.partition][1] for one in found}

    def begin(self, ranges: Iterable[Range]) -> None:
        """Read these from now on."""
        wanted = [one for one in ranges if len(one)]
        self._ends = {one.topic_partition: one.end for one in wanted}
        self.open = set(self._ends)
        self._firsts = {one.topic_partition: one.first for one in wanted}
        self.scanned = dict(self._firsts)
        partitions = [ConfluentPartition(*one.topic_partition, one.first) for one in wanted]
        self._consumer.assign(partitions)
        self._consumer.resume(partitions)  # a partition that was read to its end stays paused, assigned anew or not

    @property
    def passed(self) -> int:
        """How many offsets of the ranges lie behind."""
        return sum(self.scanned[tp] - first for tp, first in self._firsts.items())

    def batches(
        self, ranges: Iterable[Range], most: int = 10_000, *, patience_s: float = PATIENCE_S
    ) -> Iterator[list[Message]]:
        """Everything in the ranges, some at a time, those of a partition in their order.

        Raises `NothingCame` where nothing comes for `patience_s`, and `KafkaException`.
        """
        self.begin(ranges)
        deadline = time.monotonic() + patience_s
        while self.open:
            if messages := self.poll(most, _POLL_S):
                yield messages
                deadline = time.monotonic() + patience_s
            elif time.monotonic() > deadline:
                still = ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(self.open))
                raise NothingCame(f"nothing came for {patience_s:g} s, with {still} still open")

    def poll(self, most: int, timeout_s: float) -> list[Message]:
        """Up to `most` records of the ranges, those of a partition in their order; raises `KafkaException`."""
        wanted = []
        for message in self._consumer.consume(most, timeout_s):
            topic, partition, error = message.topic(), message.partition(), message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:  # also where compaction or a marker took the last offsets
                    self._close((str(topic), int(partition or 0)))
                elif not kafka_retriable(error):
                    raise KafkaException(error)
                continue
            tp, offset = (str(topic), int(partition or 0)), int(message.offset() or 0)
            if tp not in self.open:
                continue
            if offset < self._ends[tp]:
                wanted.append(message)
                self.scanned[tp] = offset + 1
            if offset + 1 >= self._ends[tp]:
                self._close(tp)
        return wanted

    def close(self) -> None:
        """Release the connections."""
        self._consumer.close()

    def _close(self, tp: TopicPartition) -> None:
        if tp in self.open:
            self.open.remove(tp)
            self.scanned[tp] = self._ends[tp]
            self._consumer.pause([ConfluentPartition(*tp)])  # what is written meanwhile belongs to somebody else
