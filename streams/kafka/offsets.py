"""Which offset may be committed: everything below it is finished, in offset order, per partition.

Owns that rule and nothing else: pure, no Kafka, no clock, no locks (one thread or event loop at a time). Offsets need
not be consecutive: compaction and transaction markers leave holes, so what counts is the order of arrival.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

TopicPartition = tuple[str, int]
"""Topic and partition."""


@dataclass(slots=True)
class _Partition:
    generation: int
    next_offset: int | None = None  # what to commit: the offset after the last finished run
    pending: deque[tuple[int, int]] = field(default_factory=deque)  # (first, last) spans in order of arrival
    finished: set[int] = field(default_factory=set)  # firsts of spans finished ahead of an earlier one

    @property
    def floor(self) -> int | None:
        """The lowest offset that has not been read yet; None before the first."""
        return self.pending[-1][1] + 1 if self.pending else self.next_offset


@dataclass(frozen=True, slots=True)
class Ticket:
    """Proof of registration; belongs to one assignment of its partition."""

    topic_partition: TopicPartition
    first: int
    last: int
    generation: int


class OffsetTracker:
    """The highest contiguous finished offset of each partition.

    1. `register` each record (or span of records) when it is read;
    2. `finish` its ticket when its result is durable, in any order;
    3. `position` says what to commit: the first offset not finished, or None before anything was;
    4. `forget` a partition when it is revoked; tickets from before then count for nothing, so that work which
       outlives a rebalance can not move the position of the next assignment.
    """

    def __init__(self) -> None:
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._generation = 0

    def register(self, tp: TopicPartition, first: int, last: int | None = None) -> Ticket:
        """Note a record, or the span `first..last`, as read. Offsets of a partition must rise."""
        last = first if last is None else last
        partition = self._partitions.get(tp)
        if partition is None:
            self._generation += 1
            partition = self._partitions[tp] = _Partition(self._generation)
        floor = partition.floor
        if last < first or (floor is not None and first < floor):
            raise ValueError(f"{tp[0]}[{tp[1]}]: span {first}..{last} after offset {floor} was expected")
        partition.pending.append((first, last))
        return Ticket(tp, first, last, partition.generation)

    def seen(self, tp: TopicPartition, offset: int) -> bool:
        """Whether this assignment has read `offset` already: it is in work, or finished."""
        partition = self._partitions.get(tp)
        return partition is not None and partition.floor is not None and offset < partition.floor

    def finish(self, ticket: Ticket) -> bool:
        """Note a ticket's work as durable; False where its partition has been revoked since."""
        partition = self._partitions.get(ticket.topic_partition)
        if partition is None or partition.generation != ticket.generation:
            return False
        partition.finished.add(ticket.first)
        while partition.pending and partition.pending[0][0] in partition.finished:
            first, last = partition.pending.popleft()
            partition.finished.discard(first)
            partition.next_offset = last + 1
        return True

    def position(self, tp: TopicPartition) -> int | None:
        """The offset to commit (the next one to read after a restart), or None while nothing is finished."""
        partition = self._partitions.get(tp)
        return None if partition is None else partition.next_offset

    def positions(self) -> dict[TopicPartition, int]:
        """Every partition's `position`, those without one left out."""
        return {p: s.next_offset for p, s in self._partitions.items() if s.next_offset is not None}

    def pending(self, tp: TopicPartition | None = None) -> int:
        """Spans read and not yet contiguous-finished, of one partition or of all."""
        states = self._partitions.values() if tp is None else filter(None, [self._partitions.get(tp)])
        return sum(len(state.pending) for state in states)

    def forget(self, partitions: Iterable[TopicPartition] | None = None) -> None:
        """Drop revoked partitions (all without an argument) and void their tickets."""
        for tp in list(self._partitions) if partitions is None else list(partitions):
            self._partitions.pop(tp, None)
