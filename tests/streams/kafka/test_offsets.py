"""The tracker: never past an unfinished record, whatever the order of finishing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.offsets import OffsetTracker

P = ("t", 0)


def test_nothing_is_committed_before_the_first_record_is_done() -> None:
    """Catches Faust's off-by-one: with record 31 unfinished, 32 and 33 must not move the position."""
    tracker = OffsetTracker()
    tickets = [tracker.register(P, offset) for offset in (31, 32, 33)]
    assert tracker.finish(tickets[1])
    assert tracker.finish(tickets[2])
    assert tracker.position(P) is None
    assert tracker.finish(tickets[0])
    assert tracker.position(P) == 34


def test_record_0_of_a_fresh_topic_counts() -> None:
    """Catches a zero taken for "no offset"."""
    tracker = OffsetTracker()
    first, second = tracker.register(P, 0), tracker.register(P, 1)
    tracker.finish(second)
    assert tracker.position(P) is None
    tracker.finish(first)
    assert tracker.position(P) == 2


def test_holes_of_compaction_do_not_hold_up_the_position() -> None:
    """Catches a tracker that waits for offsets which no longer exist."""
    tracker = OffsetTracker()
    tickets = [tracker.register(P, offset) for offset in (5, 9, 1000)]
    for ticket in tickets:
        tracker.finish(ticket)
    assert tracker.position(P) == 1001
    assert tracker.pending() == 0


def test_spans_count_as_one() -> None:
    """Catches a batch committed up to its first record, or past its last."""
    tracker = OffsetTracker()
    first, second = tracker.register(P, 0, 99), tracker.register(P, 100, 149)
    tracker.finish(second)
    assert tracker.positions() == {}
    tracker.finish(first)
    assert tracker.positions() == {P: 150}


def test_work_that_outlives_its_assignment_moves_nothing() -> None:
    """Catches a late finish, from before a rebalance, that commits records of the next assignment."""
    tracker = OffsetTracker()
    old = tracker.register(P, 7)
    tracker.forget([P])
    new = tracker.register(P, 7)
    assert not tracker.finish(old)
    assert tracker.position(P) is None
    assert tracker.finish(new)
    assert tracker.position(P) == 8


def test_reading_backwards_is_seen_and_refused() -> None:
    """Catches a rewound consumer that would register a record twice."""
    tracker = OffsetTracker()
    tracker.register(P, 3)
    assert tracker.seen(P, 3)
    assert tracker.seen(P, 1)
    assert not tracker.seen(P, 4)
    assert not tracker.seen(("t", 1), 3)
    with pytest.raises(ValueError, match="was expected"):
        tracker.register(P, 3)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_position_is_always_the_first_unfinished_record(gaps: list[int], random: object) -> None:
    """Catches any order of finishing that acknowledges a record whose work is not done."""
    tracker = OffsetTracker()
    offsets = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    tickets = [tracker.register(P, offset) for offset in offsets]
    order = list(range(len(offsets)))
    random.shuffle(order)  # type: ignore[attr-defined]
    done: set[int] = set()
    for n in order:
        tracker.finish(tickets[n])
        done.add(n)
        unfinished = [offset for m, offset in enumerate(offsets) if m not in done]
        position = tracker.position(P)
        assert position is None or all(offset >= position for offset in unfinished)
        prefix = next((m for m in range(len(offsets)) if m not in done), len(offsets))
        assert position == (offsets[prefix - 1] + 1 if prefix else None)
