"""How far each lane is behind, in records, from the broker's own offsets.

Owns one read-only question to the cluster. Must not join a group or move an offset.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from streams.errors import kafka_retriable


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition as a group sees it: its committed `position` (the first record without one) and the `end`."""

    topic: str
    partition: int
    position: int
    end: int

    @property
    def records(self) -> int:
        """How many are not acknowledged."""
        return max(0, self.end - self.position)


class GroupLag:
    """Records that consumer groups have not committed yet; made once, asked often.

    `kafka` are librdkafka settings, `groups` maps a group to the topics it reads. The groups are asked through
    consumers that never subscribe: `AdminClient.list_consumer_group_offsets` of librdkafka 2.16 ends the process with a
    segmentation fault where the group's coordinator is still loading.
    """

    def __init__(self, kafka: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> None:
        self._groups = groups
        self._consumers = {
            group: Consumer({**kafka, "group.id": group, "enable.auto.commit": False}) for group in groups
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, *, timeout_s: float = 10.0) -> dict[str, int]:
        """Lag of each group over all partitions of its topics.

        A partition without a commit counts from its first record; a topic that does not exist counts as empty. Raises
        `confluent_kafka.KafkaException` where the cluster does not answer.
        """
        return {group: sum(one.records for one in rows) for group, rows in self.partitions(timeout_s=timeout_s).items()}

    def partitions(self, *, timeout_s: float = 10.0) -> dict[str, list[PartitionLag]]:
        """The same, partition by partition."""
        return {
            group: self._lag(consumer, self._groups[group], timeout_s) for group, consumer in self._consumers.items()
        }

    def close(self) -> None:
        """Release the connections."""
        for consumer in self._consumers.values():
            consumer.close()

    @staticmethod
    def _lag(consumer: Consumer, topics: Sequence[str], timeout_s: float) -> list[PartitionLag]:
        known = consumer.list_topics(timeout=timeout_s).topics
        partitions = [TopicPartition(topic, p) for topic in topics if topic in known for p in known[topic].partitions]
        rows = []
        for at in consumer.committed(partitions, timeout=timeout_s) if partitions else ():
            first, end = watermarks(consumer, at, timeout_s)
            # An offset below zero: nothing committed yet.
            rows.append(PartitionLag(at.topic, at.partition, max(at.offset, first), end))
        return rows


def watermarks(consumer: Consumer, partition: TopicPartition, timeout_s: float) -> tuple[int, int]:
    """First offset and end of a partition; asks again while its leadership moves, as it does just after creation."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            first, end = consumer.get_watermark_offsets(partition, timeout=timeout_s)
            return first, end
        except KafkaException as error:
            if not kafka_retriable(error.args[0]) or time.monotonic() > deadline:
                raise
        time.sleep(0.1)
