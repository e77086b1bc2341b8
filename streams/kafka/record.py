"""A record as it came from Kafka, whichever client read it.

Owns the one value type that stages, dead letters and acknowledgement share. Must not decode anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """Untouched bytes and where they stood; `timestamp` is the Kafka timestamp in epoch milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()

    @classmethod
    def of_message(cls, message: Any) -> SourceRecord:
        """From a `confluent_kafka.Message`."""
        return cls(
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            timestamp=max(0, message.timestamp()[1]),
            key=message.key(),
            value=message.value(),
            headers=tuple(message.headers() or ()),
        )

    @property
    def topic_partition(self) -> tuple[str, int]:
        """Topic and partition: what offsets are counted in."""
        return self.topic, self.partition
