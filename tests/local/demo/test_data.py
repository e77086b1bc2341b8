"""How the demo cuts a log."""

from __future__ import annotations

import pyarrow as pa
import pytest

from freshet.records import Item
from local.demo.data import NotEnoughData, in_steps, recent, split
from local.demo.feed import shifted_to_now
from schemas.files import EVENT_SCHEMA


def log(rows: list[tuple[str, str, int]]) -> pa.Table:
    return pa.table(
        {
            "user_id": [user for user, _, _ in rows],
            "item_id": [item for _, item, _ in rows],
            "event_type": ["view"] * len(rows),
            "event_time": [time for _, _, time in rows],
            "event_id": [""] * len(rows),
            "value": [None] * len(rows),
        },
        schema=EVENT_SCHEMA,
    )


def test_items_are_new_where_they_first_appear_in_the_stream() -> None:
    """Catches an item announced after its first event, or one that was known before."""
    rows = [("u", "old", n) for n in range(1_500)]
    rows += [("u", "new-b" if n == 20 else "new-a" if n == 30 else "old", 1_500 + n) for n in range(500)]
    items = [Item(name, 0, name) for name in ("old", "new-a", "new-b", "never")]
    data = split("toy", items, log(rows), known_share=0.75, stream_rows=400)
    assert [item.item_id for item in data.known] == ["old"]
    assert [item.item_id for item in data.new] == ["new-b", "new-a"]
    assert data.new_at == (20, 30)
    assert (data.history.num_rows, data.stream.num_rows) == (1_500, 400)


def test_a_short_log_says_so() -> None:
    """Catches a demo that starts a stack for nothing."""
    with pytest.raises(NotEnoughData, match="toy has 10 events"):
        split("toy", [], log([("u", "i", n) for n in range(10)]), known_share=0.7, stream_rows=100)


def test_a_log_without_new_items_says_so() -> None:
    """Catches a demo with nothing to show."""
    rows = log([("u", "i", n) for n in range(3_000)])
    with pytest.raises(NotEnoughData, match="first seen"):
        split("toy", [Item("i", 0, "i")], rows, known_share=0.7, stream_rows=500)


def test_recent_keeps_the_newest_of_each_user_in_order() -> None:
    """Catches histories cut at the wrong end."""
    rows = log([("a", "1", 1), ("b", "2", 2), ("a", "3", 3), ("a", "4", 4)])
    assert recent(rows, 2)["item_id"].to_pylist() == ["2", "3", "4"]


def test_a_moved_log_keeps_its_gaps_and_ends_in_the_past() -> None:
    """Catches events from the future, which are dead letters."""
    moved = shifted_to_now(log([("a", "1", 10), ("a", "2", 25)]), 1_000_000)
    assert moved["event_time"].to_pylist() == [998_985, 999_000]


def test_steps_cover_all_rows_once() -> None:
    """Catches a last, short step that is dropped."""
    assert list(in_steps(5, 2)) == [(0, 2), (2, 4), (4, 5)]
