"""Reading catalogues and event logs from files."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.files import FileError, read_events, read_items


def lines(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_numeric_ids_and_any_timestamp_unit_become_text_and_milliseconds(tmp_path: Path) -> None:
    """Catches ids such as '12.0' and times off by a factor of a thousand."""
    when = datetime(2011, 12, 9, 12, 50, tzinfo=UTC)
    for unit in ("s", "ms", "us", "ns"):
        table = pa.table(
            {
                "user_id": pa.array([17850.0]),
                "item_id": pa.array([12]),
                "timestamp": pa.array([when.replace(tzinfo=None)], pa.timestamp(unit)),
            }
        )
        pq.write_table(table, tmp_path / "events.parquet")
        (event,) = read_events(tmp_path / "events.parquet").to_pylist()
        assert (event["user_id"], event["item_id"]) == ("17850", "12")
        assert event["event_time"] == int(when.timestamp() * 1000)
        assert (event["event_type"], event["event_id"], event["value"]) == ("view", "", None)


def test_iso_text_is_a_time(tmp_path: Path) -> None:
    """Catches JSON lines whose times cannot be read."""
    path = lines(tmp_path / "e.jsonl", {"user_id": "u", "item_id": "i", "event_time": "2020-01-01T00:00:01"})
    assert read_events(path)["event_time"].to_pylist() == [1_577_836_801_000]


def test_a_row_without_a_user_is_named(tmp_path: Path) -> None:
    """Catches silent loss of rows."""
    path = lines(
        tmp_path / "e.jsonl",
        {"user_id": "u", "item_id": "i", "event_time": 1},
        {"user_id": None, "item_id": "i", "event_time": 2},
    )
    with pytest.raises(FileError, match="row 1 has no user_id"):
        read_events(path)


def test_items_take_paths_lists_and_json_attributes(tmp_path: Path) -> None:
    """Catches a category path read as one word and attributes lost."""
    path = lines(
        tmp_path / "i.jsonl",
        {
            "item_id": 1,
            "title": "tea",
            "category": "food > drinks",
            "attributes": '{"size": 3, "none": null}',
            "price": 2,
        },
    )
    (item,) = read_items(path, default_time=7)
    assert item.category == ("food", "drinks")
    assert item.attributes == {"size": "3"}
    assert (item.item_id, item.event_time, item.price) == ("1", 7, 2.0)


def test_a_bad_item_row_is_named(tmp_path: Path) -> None:
    """Catches a stack trace, or an item dropped, where the file is at fault."""
    path = lines(tmp_path / "i.jsonl", {"item_id": "a", "title": "tea", "attributes": "[1]"})
    with pytest.raises(FileError, match=r"row 0 \(item a\): attributes must be a JSON object"):
        list(read_items(path, default_time=0))


@pytest.mark.parametrize("content", ["", "not json", '{"a": 1}\n'])
def test_a_file_of_something_else_says_so(tmp_path: Path, content: str) -> None:
    """Catches a traceback for a wrong file."""
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(FileError):
        read_events(path)
    with pytest.raises(FileError):
        list(read_items(path, default_time=0))
