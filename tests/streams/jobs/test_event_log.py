"""Training's own reading of the topics, on the real broker, and the commands that use it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

import streams.jobs.training
from cli import main
from freshet.records import Item, UserEvent
from schemas.codec import Codec
from schemas.files import EVENT_SCHEMA
from store.histories import HistoryBatch, HistoryEvent, HistoryStore
from streams.jobs.event_log import EventLog, ItemLog, LogError, read_event_topic, read_item_topic, read_topic
from streams.kafka.topics import Topics
from streams.settings import Settings
from tests.evaluation.cold_world import DAY_MS, write
from tests.support.fakes_encoder import FakeEncoder
from tests.support.lane_tools import make_topics, send_all

NOW = 1_700_000_000_000
CODEC = Codec()
Told = tuple[bytes | None, bytes | None]


class Shop:
    """Topics of one's own, and what training makes of them."""

    def __init__(self, kafka: str, prefix: str) -> None:
        self.settings = Settings.load({}, kafka=kafka, topic_prefix=prefix)
        self.topics = make_topics(self.settings)

    def events(self, *records: Told) -> None:
        send_all(self.settings, self.topics.user_events, records)

    def items(self, *records: Told) -> None:
        send_all(self.settings, self.topics.items, records)

    def put(self, partition: int, records: Sequence[Told], timestamp: int = 0) -> None:
        """Produce to one partition, whatever the key."""
        producer = Producer({"bootstrap.servers": self.settings.kafka.servers})
        for key, value in records:
            producer.produce(self.topics.user_events, value, key, partition, timestamp=timestamp)
        assert producer.flush(20) == 0

    def log(self) -> EventLog:
        return read_event_topic(self.settings, self.topics.user_events, CODEC, NOW + DAY_MS, lambda _d, _t: None)

    def catalogue(self) -> ItemLog:
        return read_item_topic(self.settings, self.topics.items, CODEC, NOW + DAY_MS, lambda _d, _t: None)


@pytest.fixture
def shop(kafka: str, topic_prefix: str) -> Shop:
    return Shop(kafka, topic_prefix)


def event(user: str, item: str, at: int = 0, event_id: str = "", key: bytes | None = b"user") -> Told:
    value = CODEC.encode(UserEvent(user, item, "view", NOW + at, event_id))
    return (user.encode() if key == b"user" else key), value


def item(item_id: str, title: str, at: int = 0) -> Told:
    return item_id.encode(), CODEC.encode(Item(item_id, NOW + at, title))


def pairs(log: EventLog) -> list[tuple[str, str]]:
    assert log.events.schema == EVENT_SCHEMA
    return sorted(zip(log.events["user_id"].to_pylist(), log.events["item_id"].to_pylist(), strict=True))


def test_a_topic_is_read_to_its_end_in_an_order_of_its_own(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches records lost at a batch's or a partition's end, and a training that the same seed does not repeat."""
    monkeypatch.setattr("streams.jobs.event_log.BATCH", 37)
    sent = [(f"u{n % 41}", f"i{n}") for n in range(1_000)]
    shop.events(*(event(user, item, n) for n, (user, item) in enumerate(sent)))
    first, again = shop.log(), shop.log()
    assert pairs(first) == sorted(sent)
    assert first.events.equals(again.events)
    assert (first.skipped, first.erased, first.repeated) == ({}, 0, 0)


def test_erased_users_are_left_out_up_to_their_erasure(shop: Shop) -> None:
    """Catches a model that has learned from what a user asked to have forgotten, or not from what came later."""
    shop.events(event("a", "old"), event("b", "old"), (b"a", None), event("a", "new"), (b"c", None))
    log = shop.log()
    assert pairs(log) == [("a", "new"), ("b", "old")]
    assert log.erased == 1


def test_an_erasure_reaches_events_in_other_partitions(shop: Shop) -> None:
    """Catches events without a key, or from before partitions were added, that survive their user's erasure."""
    shop.put(0, [event("a", "before", key=None)], timestamp=NOW)
    shop.put(1, [(b"a", None)], timestamp=NOW + 10)
    shop.put(2, [event("a", "after", key=None)], timestamp=NOW + 20)
    assert pairs(shop.log()) == [("a", "after")]


def test_bad_records_are_skipped_and_counted(shop: Shop) -> None:
    """Catches a training that ends at a dead letter, or that learns from one."""
    shop.events(
        event("a", "good"),
        (b"a", b"garbage"),
        event("a", "from the future", 2 * DAY_MS),
        event("a", " "),
        event("b", "of somebody else", key=b"c"),
        (b"", None),
    )
    log = shop.log()
    assert pairs(log) == [("a", "good")]
    assert sum(log.skipped.values()) == 5
    assert log.skipped["future_time"] == log.skipped["missing_item"] == 1
    assert log.skipped["key_mismatch"] == 2


def test_an_event_that_was_sent_twice_counts_once(shop: Shop) -> None:
    """Catches a producer's retry as a second behavior; without an event id two events are two."""
    shop.events(event("a", "x", event_id="1"), event("a", "x", event_id="1"), event("b", "x", event_id="1"))
    shop.events(event("c", "x"), event("c", "x"))
    log = shop.log()
    assert pairs(log) == [("a", "x"), ("b", "x"), ("c", "x"), ("c", "x")]
    assert log.repeated == 1


def test_items_are_their_newest_state_without_the_deleted(shop: Shop) -> None:
    """Catches a deleted item in a checkpoint, a title long replaced, and an older one that came late."""
    shop.items(item("a", "first"), item("b", "gone"), item("c", "back"), item("d", "newer", 5))
    shop.items(item("a", "second", 1), (b"b", None), (b"c", None), item("c", "again"), item("d", "older", 4))
    shop.items((b"e", b"garbage"), item("f", " "))
    found = shop.catalogue()
    assert [(one.item_id, one.title) for one in found.items] == [("a", "second"), ("c", "again"), ("d", "newer")]
    assert sum(found.skipped.values()) == 2


def test_an_empty_topic_and_a_missing_one_say_so(shop: Shop) -> None:
    """Catches a wait without end, or a traceback from deep in the training."""
    with pytest.raises(LogError, match=r"user-events holds no events; `freshet send events`"):
        shop.log()
    shop.events((b"a", b"garbage"), event("b", "x"), (b"b", None))
    with pytest.raises(LogError, match=r"holds no events \(1 record skipped: .*; 1 of erased users\)"):
        shop.log()
    with pytest.raises(LogError, match="holds no items"):
        shop.catalogue()
    with pytest.raises(LogError, match="freshet topics create"):
        read_topic(shop.settings, "nowhere", lambda _: None, lambda _d, _t: None)


def test_no_group_is_joined_and_what_comes_later_is_left(shop: Shop) -> None:
    """Catches a training that takes a lane's partitions, or that runs after a busy topic for ever."""
    shop.put(0, [event(f"u{n}", "x") for n in range(50)])
    seen: list[int] = []

    def meanwhile(messages: Sequence[object]) -> None:
        seen.append(len(messages))
        shop.put(0, [event("late", "x")] * 20)

    read_topic(shop.settings, shop.topics.user_events, meanwhile, lambda _d, _t: None)
    assert sum(seen) == 50
    with AdminClient({"bootstrap.servers": shop.settings.kafka.servers}) as admin:
        groups = admin.list_consumer_groups().result().valid
    assert not [one.group_id for one in groups if one.group_id.startswith(shop.settings.topic_prefix)]


@pytest.fixture
def filled(shop: Shop, tmp_path: Path) -> Shop:
    """The shop of `cold_world` on the topics: a year of tea and toys, one erased user and one deleted item."""
    items, events, _ = write(tmp_path)
    begin = NOW - 100 * DAY_MS
    rows = [json.loads(line) for line in events.read_text().splitlines()]
    shop.events(
        (b"u0", b"garbage"),
        *(
            (
                row["user_id"].encode(),
                CODEC.encode(UserEvent(row["user_id"], row["item_id"], row["event_type"], begin + row["timestamp"])),
            )
            for row in rows
        ),
        (b"u0", None),
    )
    titles = {row["item_id"]: row["title"] for row in map(json.loads, items.read_text().splitlines())}
    shop.items(*(item(one, title) for one, title in titles.items()), (b"i1", None))
    return shop


def command(shop: Shop, tmp_path: Path, *arguments: str, **env: str) -> Result:
    settings = shop.settings
    environment = {
        "FRESHET_KAFKA": settings.kafka.servers,
        "FRESHET_TOPIC_PREFIX": settings.topic_prefix,
        "FRESHET_HOME": str(tmp_path / "home"),
        "FRESHET_VECTORS__DIMS": "16",
        **env,
    }
    return CliRunner().invoke(main, ["train", *arguments, "--json"], env=environment)


def answer(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.output.splitlines()[-1])
    return found


@pytest.mark.parametrize("model", ["reasoner", "aligner"])
def test_both_models_train_from_the_topics(
    filled: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """Catches a source that only works on files, or that says nothing of what it left out."""
    monkeypatch.setattr(streams.jobs.training, "prepared_encoder", lambda *_: FakeEncoder(64))
    result = command(filled, tmp_path, model, "--from-topic", "--steps", "4")
    told = answer(result)
    assert told["skipped"] == 1
    assert isinstance(told["erased"], int)
    assert told["erased"] > 100
    assert told["items"] == 119
    assert "1 record skipped" in result.output
    assert "events of erased users left out" in result.output


def test_the_reasoner_trains_from_the_histories(
    filled: Shop, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a history without its times or types, and one read for an erased user."""
    monkeypatch.setattr(streams.jobs.training, "prepared_encoder", lambda *_: FakeEncoder(64))
    log = filled.log().events.to_pylist()
    with redis.Redis.from_url(valkey) as client:
        store = HistoryStore(client)
        store.append(
            HistoryBatch.of(
                HistoryEvent(row["user_id"], row["item_id"], row["event_type"], row["event_time"], offset=n)
                for n, row in enumerate(log)
            )
        )
        from_histories = answer(
            command(filled, tmp_path, "reasoner", "--from-histories", "--steps", "4", FRESHET_REDIS=valkey)
        )
        store.erase({f"u{n}": 1 for n in range(40)})
        result = command(filled, tmp_path, "reasoner", "--from-histories", "--steps", "4", FRESHET_REDIS=valkey)
    from_topic = answer(command(filled, tmp_path, "reasoner", "--from-topic", "--steps", "4"))
    assert from_histories["train_events"] == from_topic["train_events"]  # no history is longer than 200
    assert result.exit_code == 1
    assert "Redis holds no histories" in result.output


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--events", "e"],
        ["--items", "i"],
        ["--events", "e", "--items", "i", "--from-topic"],
        ["--from-topic", "--from-histories"],
        ["--from-topic", "--items", "i"],
    ],
)
def test_exactly_one_source_is_wanted(given: list[str]) -> None:
    """Catches one of two sources quietly ignored."""
    result = CliRunner().invoke(main, ["train", "reasoner", *given])
    assert result.exit_code == 2
    assert "wanted one source: --events with --items, --from-topic or --from-histories" in result.output


def test_a_broker_that_is_away_is_one_sentence(tmp_path: Path) -> None:
    """Catches a traceback where nobody listens, and a missing address that is no wrong setting."""
    env = {"FRESHET_HOME": str(tmp_path), "FRESHET_KAFKA": "127.0.0.1:1"}
    away = CliRunner().invoke(main, ["train", "aligner", "--from-topic"], env=env)
    assert away.exit_code == 1
    assert "Kafka at 127.0.0.1:1" in away.output
    none = CliRunner().invoke(main, ["train", "aligner", "--from-topic"], env={"FRESHET_HOME": str(tmp_path)})
    assert none.exit_code == 2
    assert "FRESHET_KAFKA" in none.output


def test_topics_of_another_prefix_are_somebody_elses(shop: Shop) -> None:
    """Catches a prefix that only the lanes look at."""
    shop.events(event("a", "x"))
    other = Settings.load({}, kafka=shop.settings.kafka.servers, topic_prefix="other.")
    with pytest.raises(LogError, match=r"no topic other\.user-events"):
        read_event_topic(other, Topics(other).user_events, CODEC, NOW, lambda _d, _t: None)
