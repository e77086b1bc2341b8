"""When there are too many dead letters on one partition: more likely a wrong deployment than wrong data.

Owns counting, by run (so many in a row) and by ratio (so large a part of the latest records). Pure. After Arroyo's
`DlqLimit`. Must not send dead letters. Counts start anew with the process: a restart with a higher limit, or after the
producer was mended, goes on.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from streams.errors import TooManyDeadLetters
from streams.kafka.offsets import TopicPartition
from streams.kafka.topics import Topics

_SLICES = 20
"""The window moves by a twentieth of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterLimits:
    """`run`: most in a row. `ratio`: most of the latest `window` records, from 0 to 1; 1 allows all."""

    run: int
    ratio: float = 1.0
    window: int = 10_000


@dataclass(slots=True)
class _Partition:
    run: int = 0
    highest: int = -1  # offset: a dead letter sent again after a failure, or a redelivery, is not another dead letter
    slices: deque[list[int]] = field(default_factory=lambda: deque([[0, 0]], maxlen=_SLICES))  # records, dead letters
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, records: int, dead_letters: int, slice_size: int) -> None:
        if self.slices[-1][0] >= slice_size:
            self.slices.append([0, 0])
        self.slices[-1][0] += records
        self.slices[-1][1] += dead_letters

    def latest(self) -> tuple[int, int]:
        """Records and dead letters in the window."""
        return sum(one[0] for one in self.slices), sum(one[1] for one in self.slices)


class LimitCounter:
    """Counts one lane's records and dead letters; one thread at a time."""

    def __init__(self, limits: DeadLetterLimits) -> None:
        self._limits = limits
        self._slice = max(1, limits.window // _SLICES)
        self._partitions: dict[TopicPartition, _Partition] = {}

    def good(self, tp: TopicPartition, count: int = 1) -> None:
        """Note records that were readable: a run of dead letters is over."""
        partition = self._partitions.setdefault(tp, _Partition())
        partition.run = 0
        partition.add(count, 0, self._slice)

    def bad(self, tp: TopicPartition, offset: int, reason: str) -> None:
        """Note a dead letter; raises `TooManyDeadLetters` where it is one more than allowed."""
        partition = self._partitions.setdefault(tp, _Partition())
        if offset <= partition.highest:
            return
        partition.highest = offset
        partition.run += 1
        partition.reasons[reason] += 1
        partition.add(1, 1, self._slice)
        if partition.run > self._limits.run:
            self._stop(
                tp, partition, offset, f"{self._limits.run:,} dead letters in a row", "FRESHET_DEAD_LETTERS__RUN"
            )
        records, dead_letters = partition.latest()
        if records >= self._limits.window and dead_letters > self._limits.ratio * records:
            what = f"{dead_letters:,} of the latest {records:,} records are dead letters"
            self._stop(tp, partition, offset, what, "FRESHET_DEAD_LETTERS__RATIO")

    def _stop(self, tp: TopicPartition, partition: _Partition, offset: int, what: str, setting: str) -> None:
        [(reason, _)] = partition.reasons.most_common(1)
        raise TooManyDeadLetters(
            f"{tp[0]}[{tp[1]}]: {what} up to offset {offset}, most of them {reason}; look at them with "
            f"`freshet dlq list {Topics.dead_letters(tp[0])}`, then fix the producer, or raise {setting} to go on"
        )
