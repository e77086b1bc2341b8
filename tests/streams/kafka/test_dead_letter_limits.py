"""Limits of dead letters: by run and by ratio, per partition, each record once."""

from __future__ import annotations

import pytest

from streams.errors import TooManyDeadLetters
from streams.kafka.dead_letter_limits import DeadLetterLimits, LimitCounter

PLACE = ("items", 3)


def counter(run: int = 1_000_000, ratio: float = 0.5, window: int = 100) -> LimitCounter:
    return LimitCounter(DeadLetterLimits(run=run, ratio=ratio, window=window))


def alternate(count: int, counted: LimitCounter, *, good_each: int, first: int = 0) -> None:
    for offset in range(first, first + count):
        counted.bad(PLACE, offset, "bad_framing")
        if good_each:
            counted.good(PLACE, good_each)


def test_a_partition_that_is_mostly_dead_letters_stops_the_worker() -> None:
    """Catches a producer whose every second record is broken, poured into dead letters for days."""
    counted = counter(ratio=0.3)
    with pytest.raises(
        TooManyDeadLetters, match=r"items\[3\]: 5\d of the latest 10\d .*bad_framing.*dlq list items.dlq"
    ):
        alternate(60, counted, good_each=1)


def test_a_few_dead_letters_never_do() -> None:
    """Catches a limit that adds up over weeks, or stops at the first record of all."""
    alternate(5_000, counter(ratio=0.3), good_each=3)
    fresh = counter(ratio=0.0, window=100)
    for offset in range(99):
        fresh.bad(PLACE, offset, "bad_framing")  # fewer than a window: too early to say


def test_what_has_left_the_window_no_longer_counts() -> None:
    """Catches an hour of broken records held against the good ones of the next."""
    counted = counter(ratio=0.6)
    alternate(40, counted, good_each=1)
    counted.good(PLACE, 100)
    for offset in range(40, 80):
        counted.bad(PLACE, offset, "bad_framing")


def test_a_flood_after_good_times_is_found_within_a_window() -> None:
    """Catches millions of good records that outweigh a flood for hours."""
    counted = counter(ratio=0.5)
    for _ in range(1_000):
        counted.good(PLACE, 1_000)
    with pytest.raises(TooManyDeadLetters):
        alternate(2_000, counted, good_each=0)


def test_a_redelivered_dead_letter_is_the_same_one() -> None:
    """Catches a rebalance that trips the limit by reading the same records again."""
    counted = counter(run=5)
    for _ in range(10):
        for offset in range(5):
            counted.bad(PLACE, offset, "bad_time")


def test_partitions_are_counted_each_for_itself() -> None:
    """Catches a good partition that hides a bad one, and a bad one that is held against a good one."""
    counted = counter(run=10)
    for offset in range(10):
        counted.good(("items", 1), 100)
        counted.bad(("items", 2), offset, "bad_time")
    with pytest.raises(TooManyDeadLetters, match=r"items\[2\]: 10 dead letters in a row"):
        counted.bad(("items", 2), 10, "bad_time")
    counted.bad(("items", 4), 0, "bad_time")
