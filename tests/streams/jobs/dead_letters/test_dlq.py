"""`freshet dlq` on the real broker: list, show, replay and purge, and what a rewrite leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from cli import main
from cli.dlq_view import harmless, span
from freshet.header import decode_header
from freshet.layout import Keys
from freshet.records import DeadLetter, Header, Item
from schemas.codec import Codec
from streams.jobs.dead_letters import rewrite as rewriting
from streams.jobs.dead_letters.read import Filter, Position, StoredDeadLetter, dead_letter_ranges, read_dead_letters
from streams.jobs.dead_letters.rewrite import Busy, drop
from streams.kafka.topics import Topics
from streams.settings import Settings
from tests.streams.lanes.test_item_distill_outage import running
from tests.support.lane_tools import make_topics, read_all, send_all, until

CODEC = Codec()
NOW = 1_700_000_000_000


@pytest.fixture
def settings(kafka: str, valkey: str, topic_prefix: str) -> Settings:
    made = Settings.load({}, kafka=kafka, redis=valkey, topic_prefix=topic_prefix, partitions=2)
    make_topics(made)
    return made


@pytest.fixture
def client(valkey: str) -> Any:
    with redis.Redis.from_url(valkey) as client:
        yield client


def dead_letter(settings: Settings, n: int, **changes: Any) -> DeadLetter:
    items = Topics(settings).items
    wanted = {
        "topic": items, "partition": n % 2, "offset": n, "timestamp": NOW + n, "key": b"k%d" % n,
        "value": b"\xff%d" % n,
        "headers": (Header("trace", b"1"),), "reason": "bad_framing", "stage": "item-text/read", "attempt": 1,
        "exception": "DecodeError", "message": "no", "schema_id": "", "failed_time": NOW + 1_000 * n,
    }  # fmt: skip
    return DeadLetter(**{**wanted, **changes})


def write(settings: Settings, dead_letters: Sequence[DeadLetter]) -> str:
    topic = Topics.dead_letters(Topics(settings).items)
    send_all(settings, topic, [(one.key, CODEC.encode(one)) for one in dead_letters])
    return topic


def there(settings: Settings, topic: str) -> list[StoredDeadLetter]:
    return list(read_dead_letters(settings, CODEC, dead_letter_ranges(settings, topic)))


def offsets(settings: Settings, topic: str) -> list[int]:
    return sorted(one.position.offset for one in there(settings, topic))


def run(settings: Settings, *arguments: str) -> Result:
    environment = {
        "FRESHET_KAFKA": settings.kafka.servers,
        "FRESHET_REDIS": settings.redis.url,
        "FRESHET_TOPIC_PREFIX": settings.topic_prefix,
        "FRESHET_PARTITIONS": "2",
    }
    return CliRunner().invoke(main, ["dlq", *arguments], env=environment)


def answer(settings: Settings, *arguments: str) -> dict[str, Any]:
    result = run(settings, *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_rewrite_removes_what_was_chosen_and_keeps_the_rest_byte_by_byte(
    settings: Settings, client: redis.Redis
) -> None:
    """Catches a letter lost, changed or made younger by its neighbors' removal, and one that stays."""
    topic = write(settings, [dead_letter(settings, n) for n in range(40)])
    send_all(settings, topic, [(b"odd", b"no dead letter"), (None, None)])
    before = {one.position: one.record for one in there(settings, topic)}
    gone = drop(settings, client, CODEC, topic, lambda one: one.position.offset % 5 == 0 and one.content is not None)
    assert gone.dropped == 8
    left = there(settings, topic)
    assert len(left) == 34
    unreadable = {(one.record.key, one.record.value) for one in left if one.content is None}
    assert unreadable == {(b"odd", b"no dead letter"), (None, None)}
    for one in left:
        if one.content is not None:
            was = before[one.position]
            assert (one.record.key, one.record.value, one.record.timestamp) == (was.key, was.value, was.timestamp)
            assert one.position.offset % 5
    assert drop(
        settings, client, CODEC, topic, lambda one: one.position.offset % 5 == 0 and one.content is not None
    ) == (rewriting.Dropped(0, 0))


def test_a_rewrite_that_dies_before_it_deletes_loses_nothing(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches records deleted before their copies are safe; the copies must count as the same letters."""
    topic = write(settings, [dead_letter(settings, n) for n in range(20)])

    def die(*_: Any) -> None:
        raise RuntimeError("killed here")

    monkeypatch.setattr(rewriting, "_delete_before", die)
    with pytest.raises(RuntimeError, match="killed here"):
        drop(settings, client, CODEC, topic, Filter(reasons=frozenset({"bad_framing"}), key=b"k19"))
    monkeypatch.undo()
    assert {one.position.offset for one in there(settings, topic)} == set(range(20))
    found = answer(settings, "list")
    assert (found["records"], found["groups"][0]["dead_letters"]) == (20, 20)
    drop(settings, client, CODEC, topic, Filter(key=b"k19"))
    assert {one.position.offset for one in there(settings, topic)} == set(range(19))


def test_two_rewriters_do_not_work_on_one_topic_at_once(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches letters of an erased user that another purge's copies bring back."""
    topic = write(settings, [dead_letter(settings, 0)])
    monkeypatch.setattr(rewriting, "_WAIT_S", 0.1)
    with client.lock(Keys("f").rewriting(topic), timeout=30), pytest.raises(Busy, match="try again"):
        drop(settings, client, CODEC, topic, lambda _: True)
    assert offsets(settings, topic) == [0]


def test_everything_chosen_needs_no_copy(settings: Settings, client: redis.Redis) -> None:
    """Catches a purge of a full topic that first writes it all again."""
    topic = write(settings, [dead_letter(settings, n) for n in range(10)])
    assert drop(settings, client, CODEC, topic, lambda _: True) == rewriting.Dropped(10, 0)
    assert there(settings, topic) == []


def test_letters_are_counted_and_chosen(settings: Settings) -> None:
    """Catches a filter that lets everything through, one that lets nothing through, and a letter counted twice."""
    more = [
        dead_letter(settings, n, reason="empty_title", stage="item-distill/read", exception="X") for n in range(30, 33)
    ]
    write(settings, [*(dead_letter(settings, n) for n in range(10)), dead_letter(settings, 3), *more])
    found = answer(settings, "list")
    counted = [(row["reason"], row["dead_letters"]) for row in found["groups"]]
    assert counted == [("bad_framing", 10), ("empty_title", 3)]
    assert found["groups"][0]["first_ms"] == NOW
    assert found["groups"][0]["last_ms"] == NOW + 9_000
    assert answer(settings, "list", "--reason", "empty_title")["records"] == 3
    assert answer(settings, "list", "--stage", "item-distill")["records"] == 3
    assert answer(settings, "list", "--exception", "X", "items")["records"] == 3
    assert answer(settings, "list", "--key", "k4")["records"] == 1
    assert answer(settings, "list", "--from", str(NOW + 2_000), "--to", str(NOW + 5_000))["records"] == 3
    assert answer(settings, "list", "user-events")["records"] == 0
    shown = run(settings, "list")
    assert shown.exit_code == 0
    assert "Next: freshet dlq show" in shown.stdout


def test_a_letter_is_shown_whole_and_harmless(settings: Settings) -> None:
    """Catches a seller's escape codes that reach the operator's terminal, and a value nobody can look at."""
    item = Item("i1", NOW, "red \x1b[31m tea\x00", price=float("nan"))
    write(
        settings,
        [dead_letter(settings, 5, value=CODEC.encode(item), key=b"i1", reason="bad_number", message="\x1b[2J")],
    )
    position = f"{Topics(settings).items}/1/5"
    shown = run(settings, "show", position)
    assert shown.exit_code == 0, shown.output
    assert "\x1b[31m" not in shown.stdout
    assert "\x1b[2J" not in shown.stdout
    assert "\\u001b[31mtea" in "".join(shown.stdout.split())
    row = json.loads(run(settings, "show", position, "--json").stdout)
    assert row["record"]["title"] == item.title
    assert bytes.fromhex(row["value_hex"]) == CODEC.encode(item)
    assert run(settings, "show", f"{Topics(settings).items}/1/77").exit_code == 1
    assert run(settings, "show", "nonsense").exit_code == 2
    assert harmless("a\nb\u202e") == "a\\nb\\u202e"


def test_nothing_happens_without_execute(settings: Settings) -> None:
    """Catches a dry run that sends or removes, and a purge of everything by a slip."""
    topic = write(settings, [dead_letter(settings, n) for n in range(6)])
    assert "6 records would be sent again" in run(settings, "replay").stdout
    assert "2 records would be removed" in run(settings, "purge", "--from", str(NOW + 4_000)).stdout
    assert run(settings, "purge", "--execute").exit_code == 2
    assert read_all(settings.kafka.servers, Topics(settings).items) == []
    assert len(there(settings, topic)) == 6


def test_purge_removes_what_was_chosen(settings: Settings) -> None:
    """Catches a purge that takes too much."""
    topic = write(
        settings, [dead_letter(settings, n, reason="bad_time" if n < 4 else "bad_framing") for n in range(10)]
    )
    assert answer(settings, "purge", "--reason", "bad_time", "--execute") == {"removed": 4, "execute": True}
    assert offsets(settings, topic) == [4, 5, 6, 7, 8, 9]
    assert answer(settings, "purge", "--all", "--execute")["removed"] == 6
    assert there(settings, topic) == []


def test_replay_sends_the_untouched_record_once_and_removes_its_letters(settings: Settings) -> None:
    """Catches a record sent twice because two lanes refused it, bytes or time changed, and a letter left behind."""
    both = [
        dead_letter(settings, 1),
        dead_letter(settings, 1, stage="item-distill/read"),
        dead_letter(settings, 2, attempt=3),
    ]
    topic = write(settings, [*both, dead_letter(settings, 4, value=None)])
    done = answer(settings, "replay", "--key", "k1", "--key", "k1", "--execute")
    assert done == {"sent": 1, "removed": 2, "execute": True}
    assert answer(settings, "replay", "--keep", "--execute", "items")["sent"] == 2
    assert offsets(settings, topic) == [2, 4]
    records = {one.key: one for one in read_all(settings.kafka.servers, Topics(settings).items)}
    assert records.keys() == {b"k1", b"k2", b"k4"}
    assert (records[b"k1"].value, records[b"k1"].timestamp) == (b"\xff1", NOW + 1)
    assert records[b"k4"].value is None
    headers = dict(records[b"k2"].headers)
    assert headers["trace"] == b"1"
    assert headers["freshet-dlq-attempt"] == b"3"
    assert headers["freshet-dlq-position"] == f"{Topics(settings).items}/0/2".encode()


async def test_an_older_record_sent_again_does_not_win_and_a_broken_one_comes_back(
    settings: Settings, client: redis.Redis, tmp_path: Path
) -> None:
    """Catches a replayed state that overwrites a newer one, and attempts that are not counted."""
    topics = Topics(settings)
    old, new = Item("i1", NOW, "old tea"), Item("i1", NOW + 5_000, "new tea")
    await asyncio.to_thread(send_all, settings, topics.items, [(b"i1", CODEC.encode(new))])
    topic = await asyncio.to_thread(
        write, settings, [dead_letter(settings, 0, key=b"i1", value=CODEC.encode(old)), dead_letter(settings, 2)]
    )
    async with running(settings, "item-text", "sink"):
        done = await asyncio.to_thread(answer, settings, "replay", "--execute")
        assert done == {"sent": 2, "removed": 2, "execute": True}
        await until(lambda: len(read_all(settings.kafka.servers, topics.item_features)) == 2, "both vectors", 40)
        await until(lambda: len(there(settings, topic)) == 1, "the broken one's letter")
        key = Keys("f").item("v1", "i1")
        await until(lambda: client.get(key) is not None, "the vector in Redis")
        await asyncio.sleep(0.5)
    header = decode_header(client.get(key))  # type: ignore[arg-type]
    assert header is not None
    assert header.event_time == new.event_time
    [back] = there(settings, topic)
    assert back.content is not None
    assert (back.content.key, back.content.attempt) == (b"k2", 2)


def test_positions_have_one_written_form() -> None:
    """Catches a topic with slashes or dots that cannot be named."""
    for position in (Position("a.items", 0, 12), Position("a/b", 3, 0)):
        assert Position.parse(str(position)) == position
    for text in ("items", "items/3", "items/x/1", "/1/2"):
        with pytest.raises(ValueError, match="no position"):
            Position.parse(text)


@pytest.mark.parametrize(
    ("last_ms", "shown"),
    [(0, "11-14 22:13"), (60_000, "11-14 22:13-22:14"), (86_400_000, "11-14 22:13 - 11-15 22:13"), (10**18, "…")],
)
def test_the_time_of_a_group_fits_a_column(last_ms: int, shown: str) -> None:
    """Catches a list that folds every column in a terminal of a hundred, and a time that no calendar has."""
    first = 1_700_000_000_000
    found = span(first, first + last_ms)
    assert found == shown or (shown == "…" and found.startswith("11-14 22:13 - "))
