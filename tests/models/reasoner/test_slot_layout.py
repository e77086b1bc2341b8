from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.reasoner.slot_layout import layout


@given(
    gaps=st.lists(st.integers(0, 10**9), max_size=20),
    slots=st.integers(1, 16),
    share=st.floats(0, 1),
    tail=st.integers(0, 12),
)
def test_slots_and_events_fill_the_block_and_keep_their_order(gaps, slots, share, tail):
    """Catches slots lost or doubled by rounding, and events that change places with one another."""
    times = np.cumsum([0, *gaps])
    between = round(share * slots)
    made = layout(times, slots, between, tail)
    assert len(made.slots) == slots
    assert made.observed <= min(tail, len(times))
    assert sorted([*made.slots, *made.events]) == list(range(slots + made.observed))
    assert (np.diff(made.events) > 0).all()
    after = (made.slots > made.events.max(initial=-1)).sum()
    assert after == slots - (between if made.observed else 0)


def test_the_longest_gap_gets_the_slots():
    """Catches slots placed by count of events instead of by time."""
    made = layout([0, 10, 20, 1_000, 1_010], slots=6, between=4, tail=5)
    assert made.events.tolist() == [0, 1, 2, 7, 8]
    assert made.slots.tolist() == [3, 4, 5, 6, 9, 10]


def test_gaps_share_slots_by_length():
    """Catches rounding that gives all to the longest."""
    made = layout([0, 300, 600, 700], slots=5, between=5, tail=4)
    assert made.slots.tolist() == [1, 2, 4, 5, 7]


@pytest.mark.parametrize("times", [[], [5], [7, 7, 7]])
def test_without_a_gap_in_time_all_slots_come_after(times):
    """Catches slots put between events of one basket, whose order means nothing."""
    made = layout(times, slots=4, between=2, tail=8)
    assert made.slots.tolist() == [0, 1, 2, 3]
    assert made.observed == 0


def test_more_between_than_slots_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.4"):
        layout([1, 2], slots=4, between=5, tail=2)
