"""`freshet send` and `freshet topics` against the real broker."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cli import main
from freshet.records import Item, UserEvent
from schemas.codec import Codec
from streams.settings import Settings
from tests.support.lane_tools import make_topics, read_all

NOW = 1_700_000_000_000


@pytest.fixture
def environment(kafka: str, topic_prefix: str, tmp_path: Path) -> dict[str, str]:
    return {"FRESHET_KAFKA": kafka, "FRESHET_TOPIC_PREFIX": topic_prefix, "FRESHET_HOME": str(tmp_path)}


def event_table(n: int) -> pa.Table:
    return pa.table(
        {
            "user_id": pa.array(range(n)),
            "item_id": pa.array([float(i % 7) for i in range(n)]),
            "timestamp": pa.array([NOW + i for i in range(n)], pa.timestamp("ms")),
            "value": pa.array([None if i % 2 else 1.5 for i in range(n)]),
        }
    )


def test_topics_are_made_once_and_listed(environment: dict[str, str]) -> None:
    """Catches a second `topics create` that fails or changes what stands."""
    first = CliRunner().invoke(main, ["topics", "create", "--json"], env=environment)
    second = CliRunner().invoke(main, ["topics", "create", "--json"], env=environment)
    listed = CliRunner().invoke(main, ["topics", "list", "--json"], env=environment)
    assert len(json.loads(first.stdout)["created"]) == 11
    assert json.loads(second.stdout)["created"] == []
    rows = {row["name"].removeprefix(environment["FRESHET_TOPIC_PREFIX"]): row for row in json.loads(listed.stdout)}
    assert rows["item-features-v1"]["compacted"]
    assert not rows["user-events.dlq"]["compacted"]
    assert all(row["partitions"] == 4 for row in rows.values())
    assert CliRunner().invoke(main, ["topics", "list"], env=environment).exit_code == 0


def test_events_arrive_in_order_with_ids_as_text(environment: dict[str, str], tmp_path: Path) -> None:
    """Catches ids sent as 3.0, times in the wrong unit, rows lost between the file and the broker."""
    settings = Settings.load(environment)
    topics = make_topics(settings)
    file = tmp_path / "events.parquet"
    pq.write_table(event_table(5_000), file)
    result = CliRunner().invoke(main, ["send", "events", str(file), "--json"], env=environment)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["confirmed"] == 5_000
    codec = Codec()
    got = [(r, codec.decode(UserEvent, r.value or b"")) for r in read_all(settings.kafka.servers, topics.user_events)]
    assert sorted(int(event.user_id) for _, event in got) == list(range(5_000))
    assert all(r.key == event.user_id.encode() for r, event in got)
    one = next(event for _, event in got if event.user_id == "3")
    assert one == UserEvent("3", "3", "view", NOW + 3, "", None)


def test_items_arrive_whole(environment: dict[str, str], tmp_path: Path) -> None:
    """Catches a column that is dropped on the way from JSON lines to the contract."""
    settings = Settings.load(environment)
    topics = make_topics(settings)
    file = tmp_path / "items.jsonl"
    rows = [
        {"item_id": 7, "title": "Oat drink", "brand": "B", "category": "Food > Drinks", "attributes": '{"size": 1}'},
        {"item_id": 8, "title": "Rye bread", "price": 2.5, "updated_at": NOW},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = CliRunner().invoke(main, ["send", "items", str(file), "--rate", "1000"], env=environment)
    assert result.exit_code == 0, result.output
    assert "2 items confirmed" in result.output
    codec = Codec()
    got = {r.key: codec.decode(Item, r.value or b"") for r in read_all(settings.kafka.servers, topics.items)}
    assert got[b"7"].category == ("Food", "Drinks")
    assert got[b"7"].attributes == {"size": "1"}
    assert got[b"8"].price == 2.5
    assert got[b"8"].event_time == NOW


def test_a_bad_row_is_named_and_nothing_is_sent(environment: dict[str, str], tmp_path: Path) -> None:
    """Catches a half-sent file whose bad row nobody can find."""
    settings = Settings.load(environment)
    topics = make_topics(settings)
    file = tmp_path / "events.jsonl"
    file.write_text('{"user_id": "a", "item_id": "x", "event_time": 1}\n{"user_id": "b", "item_id": "x"}\n')
    result = CliRunner().invoke(main, ["send", "events", str(file)], env=environment)
    assert result.exit_code == 1
    assert "row 1" in result.output
    assert read_all(settings.kafka.servers, topics.user_events) == []


def test_a_missing_topic_is_named_at_once(environment: dict[str, str], tmp_path: Path) -> None:
    """Catches a send that waits for minutes for a topic nobody has made."""
    file = tmp_path / "events.parquet"
    pq.write_table(event_table(1), file)
    result = CliRunner().invoke(main, ["send", "events", str(file)], env=environment)
    assert result.exit_code == 1
    assert "freshet topics create" in result.output


def test_no_broker_is_a_wrong_setting(tmp_path: Path) -> None:
    """Catches a traceback, or exit code 1, where a setting is missing."""
    file = tmp_path / "events.parquet"
    pq.write_table(event_table(1), file)
    result = CliRunner().invoke(main, ["send", "events", str(file)], env={"FRESHET_HOME": str(tmp_path)})
    assert result.exit_code == 2
    assert "FRESHET_KAFKA" in result.output
