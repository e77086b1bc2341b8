"""Erasures on `user-events`, found before its events are read: what a user did before is passed over.

A live lane meets an erasure after the events before it and deletes them. A rebuild must not: beside live workers that
would delete what the user did since.

Owns that rule. Must not write.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from streams.kafka.batch import Batch, Message


class ErasedUsers:
    """Where and when each user was erased."""

    def __init__(self) -> None:
        self._at: dict[bytes, list[tuple[int, int, int]]] = defaultdict(list)  # partition, offset, Kafka's milliseconds

    def note(self, messages: Sequence[Message]) -> None:
        """Take the erasures among these records."""
        for message in messages:
            if message.value() is None and (key := message.key()) is not None:
                self._at[key].append((message.partition(), message.offset(), message.timestamp()[1]))

    def standing(self, messages: Sequence[Message]) -> Batch:
        """The records that still count; an erasure itself is none.

        What stands before an erasure in its partition is gone, and in another one (no key, or other partitions than
        today) what is older by Kafka's time. A null value that names nobody stays, for the lane to refuse.
        """
        return Batch.of([message for message in messages if not self._gone(message)])

    def _gone(self, message: Message) -> bool:
        key = message.key()
        if key is None or key not in self._at:
            return False
        place = message.partition()
        return message.value() is None or any(
            message.offset() < offset if place == partition else message.timestamp()[1] <= timestamp
            for partition, offset, timestamp in self._at[key]
        )
