from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freshet.records import UserEvent
from processors.users.fold_events import _BLANK, ErasedUser, EventRows, fold, suspicious
from processors.validate import ContractViolation, check_event
from schemas.columns import EVENT_SCHEMA
from store.histories import HistoryBatch, HistoryEvent

NOW = 1_700_000_000_000


def rows_of(events, keys=None, batch_rows=None):
    count = len(events)
    arrays = [pa.array([getattr(e, f.name) for e in events], f.type) for f in EVENT_SCHEMA]
    return EventRows(
        columns=pa.RecordBatch.from_arrays(arrays, schema=EVENT_SCHEMA),
        keys=pa.array([e.user_id.encode() for e in events] if keys is None else keys, pa.binary()),
        partitions=np.arange(count, dtype=np.int64) % 4,
        offsets=np.arange(count, dtype=np.int64) * 1_000_003,
        batch_rows=np.arange(count, dtype=np.int64) if batch_rows is None else np.array(batch_rows, dtype=np.int64),
    )


def records(batch: HistoryBatch):
    """User to (moment of erasure, packed records)."""
    return {
        user: (
            batch.erased[u],
            [bytes(batch.data[batch.ends[e] : batch.ends[e + 1]]) for e in range(batch.first[u], batch.first[u + 1])],
        )
        for u, user in enumerate(batch.user_ids)
    }


def event(user="u", item="i", kind="view", time=NOW, **more):
    return UserEvent(user, item, kind, time, **more)


ids = st.text(max_size=6) | st.sampled_from(["", " ", "a", "\x1c", "\u3000", "x" * 513, "é" * 257])
any_event = st.builds(
    UserEvent,
    user_id=ids,
    item_id=ids,
    event_type=ids,
    event_time=st.sampled_from([0, -1, NOW, NOW + 300_000, NOW + 300_001, 31_535_999_999, 31_536_000_000]),
    event_id=ids,
    value=st.none() | st.floats(),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(any_event, st.none() | st.sampled_from([b"", b"a", b"\xff"]) | st.just("own")), max_size=12))
def test_no_violation_escapes_the_mask(pairs):
    # Catches a rule added to check_event that the columnar mask lets through.
    events = [one for one, _ in pairs]
    keys = [one.user_id.encode() if key == "own" else key for one, key in pairs]
    doubted = suspicious(rows_of(events, keys), NOW, 300.0)
    for one, key, doubt in zip(events, keys, doubted.tolist(), strict=True):
        try:
            check_event(one, NOW, 300.0, key=key)
        except ContractViolation:
            assert doubt, one


def test_good_rows_are_not_doubted():
    # Catches a mask that sends everything the slow way.
    good = [event(user=f"u{n}", value=None if n % 2 else 1.0, event_id="" if n % 3 else "e") for n in range(9)]
    assert not suspicious(rows_of(good), NOW, 300.0).any()
    assert not suspicious(rows_of(good, keys=[None] * 9), NOW, 300.0).any()


def test_every_white_space_of_python_is_known_as_blank():
    assert {chr(c) for c in range(sys.maxunicode) if chr(c).isspace()} | {""} == set(_BLANK.to_pylist())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            UserEvent,
            user_id=st.sampled_from(["a", "b", "ü", "long" * 20]),
            item_id=st.text(min_size=1, max_size=20),
            event_type=st.sampled_from(["view", "purchase"]),
            event_time=st.integers(0, 2**50),
            event_id=st.just("") | st.text(max_size=20),
        ),
        max_size=40,
    )
)
def test_the_fold_packs_byte_by_byte_as_the_histories_do(events):
    # Catches two layouts drifting apart: the store could no longer read what the lane wrote.
    rows = rows_of(events)
    one_by_one = HistoryBatch.of(
        HistoryEvent(e.user_id, e.item_id, e.event_type, e.event_time, e.event_id, int(p), int(o))
        for e, p, o in zip(events, rows.partitions, rows.offsets, strict=True)
    )
    batch = fold(rows, {})
    assert records(batch) == records(one_by_one)
    assert len(batch) == len(events)


def test_an_erasure_forgets_what_came_before_it_and_keeps_what_came_after():
    # Catches erasing by user alone, which would drop events sent after the erasure or keep those before.
    rows = rows_of(
        [event("a", f"i{n}", time=NOW + n) for n in range(4)] + [event("b", "x")], batch_rows=[0, 2, 5, 9, 3]
    )
    folded = records(fold(rows, {"a": ErasedUser(4, 9), "nobody": ErasedUser(1, 8)}))
    assert {user: (erased, len(packed)) for user, (erased, packed) in folded.items()} == {
        "a": (9, 2),
        "b": (0, 1),
        "nobody": (8, 0),
    }
    assert [record[-6:] for record in folded["a"][1]] == [b"i2view", b"i3view"]


@pytest.mark.parametrize("erasures", [{}, {"a": ErasedUser(7, 5)}, {"a": ErasedUser(7, 5), "b": ErasedUser(9, 5)}])
def test_a_batch_of_erasures_alone_has_no_events(erasures):
    batch = fold(rows_of([]), erasures)
    assert len(batch) == 0
    assert records(batch) == {user: (5, []) for user in erasures}
    everything_erased = fold(rows_of([event("a")]), erasures)
    assert len(everything_erased) == (0 if erasures else 1)
