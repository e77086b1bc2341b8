"""A batch of Kafka records, and what a lane answers about it.

Owns the value types between the batch consumer and its lanes. Must not consume, decode or write.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from streams.errors import Reason
from streams.kafka.offsets import TopicPartition

Message = Any
"""A `confluent_kafka.Message` without error; its stubs call every accessor optional, which is true of errors only."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in order of arrival, and of the log within a partition; three columns of one length."""

    messages: Sequence[Message]
    partitions: Sequence[TopicPartition]
    offsets: Sequence[int]

    def __len__(self) -> int:
        return len(self.messages)

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Batch:
        """The columns of `messages`."""
        partitions = [(message.topic(), message.partition()) for message in messages]
        return cls(messages, partitions, [message.offset() for message in messages])

    def keep(self, wanted: Container[TopicPartition]) -> Batch:
        """Only the records of partitions that are wanted."""
        if all(tp in wanted for tp in set(self.partitions)):
            return self
        return Batch.of([message for message, tp in zip(self.messages, self.partitions, strict=True) if tp in wanted])

    def spans(self) -> dict[TopicPartition, tuple[int, int]]:
        """First and last offset of each partition."""
        last = dict(zip(self.partitions, self.offsets, strict=True))
        first = dict(zip(reversed(self.partitions), reversed(self.offsets), strict=True))
        return {tp: (first[tp], last[tp]) for tp in first}


NOTHING = Batch((), (), ())


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that can never succeed; `row` is its index in the batch, `stage` the lane and the step."""

    row: int
    reason: Reason
    stage: str
    error: BaseException


class Handler(Protocol):
    """What a lane does with a batch."""

    def write(self, batch: Batch) -> Sequence[Rejected]:
        """Make every record's result durable, but for those returned.

        Blocks. Raises transient errors as they come: the same records (or those of them whose partitions stayed) are
        then offered again, so writing twice must be the same as writing once.
        """
        ...
