"""The whole system as its users meet it: the real command, broker, Redis, encoder and a really trained reasoner.

Only the language model is a stand-in (loopback, schema-true); `make demo` runs the real one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from freshet import FeatureReader, ItemTier, UserTier
from freshet.records import DeadLetter, Item, UserEvent
from local.demo.run import environment
from models.encoder.encoder import MiniLmEncoder
from schemas.codec import Codec
from store.histories import HistoryStore
from store.refresh_queue import RefreshQueue
from streams.settings import Settings
from tests.support.deployment import Deployment
from tests.support.fakes_llm import FakeLlmServer
from tests.support.lane_tools import read_all

pytestmark = [pytest.mark.encoder, pytest.mark.timeout(420)]

THINGS = ("green tea", "ground coffee", "frozen waffles", "maple syrup", "cat food", "cat litter", "shampoo", "soap")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def catalogue(count: int, prefix: str = "item") -> list[Item]:
    """Items in pairs that belong together: item n and n + 1 of one kind are bought by the same users."""
    now = now_ms()
    return [
        Item(f"{prefix}-{n}", now, f"{THINGS[n % len(THINGS)]} no {n // len(THINGS)}", category=("shop",))
        for n in range(count)
    ]


def purchases(users: int, each: int, items: int, *, start_ms: int, seed: int = 0) -> list[UserEvent]:
    """Users with a taste: each buys within one group of things."""
    rng = np.random.default_rng(seed)
    return [
        UserEvent(
            f"user-{user}",
            f"item-{(user % 4) * 2 + int(rng.integers(2)) + len(THINGS) * int(rng.integers(items // len(THINGS)))}",
            "purchase",
            start_ms + n * 1_000 + user,
        )
        for n in range(each)
        for user in range(users)
    ]


def write_files(folder: Path, items: list[Item], events: list[UserEvent]) -> tuple[Path, Path]:
    item_rows = [{"item_id": i.item_id, "title": i.title, "category": list(i.category)} for i in items]
    event_rows = [
        {"user_id": e.user_id, "item_id": e.item_id, "event_type": e.event_type, "event_time": e.event_time}
        for e in events
    ]
    pq.write_table(pa.Table.from_pylist(item_rows), folder / "items.parquet")
    pq.write_table(pa.Table.from_pylist(event_rows), folder / "events.parquet")
    return folder / "items.parquet", folder / "events.parquet"


@pytest.fixture
def deployment(
    kafka: str, valkey: str, topic_prefix: str, tmp_path: Path, encoder: MiniLmEncoder
) -> Iterator[Deployment]:
    """A deployment whose language model answers at once."""
    home = Settings.load().home
    with FakeLlmServer() as llm:
        settings = Settings().replace(
            kafka=kafka,
            redis=valkey,
            llm=llm.url,
            topic_prefix=topic_prefix,
            home=tmp_path,
            encoder=str(home / "models" / encoder.revision.partition("@")[0]),
            partitions=2,
            refresh_interval_s=0.5,
            lease_s=5.0,
        )
        deployed = Deployment(settings, tmp_path)
        try:
            yield deployed
        finally:
            deployed.stop()


def dead_letters(deployment: Deployment, topic: str) -> list[DeadLetter]:
    codec, name = Codec(), deployment.topics.dead_letters(topic)
    records = read_all(deployment.settings.kafka.servers, name)
    return [codec.decode(DeadLetter, record.value) for record in records if record.value]


def test_items_and_events_become_features_a_ranker_reads(deployment: Deployment, tmp_path: Path) -> None:
    """Catches any break in the flow: file → Kafka → lanes → Redis → reader → command line, and back out again."""
    items, events = catalogue(64), purchases(40, 20, 64, start_ms=now_ms() - 60_000)
    item_file, event_file = write_files(tmp_path, items, events)
    trained = deployment.freshet(
        "train", "reasoner", "--events", str(event_file), "--items", str(item_file), "--steps", "30", "--json"
    )
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["steps"] == 30
    worker = deployment.worker()
    for kind, file, count in (("items", item_file, len(items)), ("events", event_file, len(events))):
        sent = deployment.freshet("send", kind, str(file), "--json")
        assert sent.returncode == 0, sent.stderr
        assert json.loads(sent.stdout)["confirmed"] == count

    settings = deployment.settings
    ids, users = [item.item_id for item in items], sorted({event.user_id for event in events})
    with FeatureReader(settings.redis.url, settings.key_prefix, timeout_s=10.0) as reader:
        deployment.until(lambda: bool((reader.items(ids).tier == ItemTier.KNOWLEDGE).all()), "knowledge of every item")
        deployment.until(
            lambda: all(u.present and len(u.behaviors) == settings.reasoner.slots for u in reader.users(users)),
            "every user",
        )
        read = reader.read("user-1", ids)
        assert read.version == "v1"
        assert read.present.all()
        assert np.allclose(np.linalg.norm(read.item_matrix, axis=1), 1, atol=1e-2)
        assert read.user.tier == UserTier.DIFFUSION
        seen = {event.item_id for event in events if event.user_id == "user-1"}
        assert not seen & {behavior.item_id for behavior in read.user.behaviors}

        shown = deployment.freshet("features", "get", "item", ids[0])
        assert shown.returncode == 0
        assert "knowledge" in shown.stdout
        answer = json.loads(deployment.freshet("features", "get", "user", "user-1", "--json").stdout)
        assert (answer["version"], answer["tier"], len(answer["behaviors"])) == (
            "v1",
            "diffusion",
            settings.reasoner.slots,
        )
        assert answer["age_seconds"] > 0

        deployment.send(
            [(deployment.topics.items, ids[0].encode(), None), (deployment.topics.user_events, b"user-1", None)]
        )
        deployment.until(lambda: not reader.items(ids[:1]).present[0], "the deleted item to go")
        deployment.until(lambda: not reader.users(["user-1"])[0].present, "the erased user to go")
    gone = deployment.freshet("features", "get", "item", ids[0])
    assert gone.returncode == 1
    assert "nothing is stored" in gone.stderr
    os.kill(worker.pid, signal.SIGTERM)
    deployment.until(lambda: not worker.running, "the worker to stop")
    assert worker.returncode() == 0


def test_bad_records_become_dead_letters_and_the_rest_goes_on(deployment: Deployment) -> None:
    """Catches a lane that stops at, loses, or swallows a bad record, and neighbors lost with it."""
    items, topics = catalogue(8), deployment.topics
    events = purchases(4, 5, 8, start_ms=now_ms() - 60_000)
    far = now_ms() + 86_400_000
    unknown_schema = b"\xc3\x01" + b"\x07" * 8 + b"\x00"
    codec = Codec()
    nobody = codec.encode(UserEvent("", "item-1", "view", now_ms()))
    bad: list[tuple[str, bytes | None, bytes | None]] = [
        (topics.items, b"x1", b"not avro"),
        (topics.items, b"x2", unknown_schema),
        (topics.items, b"x3", codec.encode(Item("x3", now_ms(), "   "))),
        (topics.user_events, b"y1", b"\xc3\x01"),
        (topics.user_events, b"y2", unknown_schema),
        (topics.user_events, b"y3", codec.encode(UserEvent("y3", "item-1", "view", far))),
        (topics.user_events, None, nobody),
    ]
    deployment.worker()
    deployment.send([*items[:4], *events[:10], *bad, *items[4:], *events[10:]])
    settings = deployment.settings
    with FeatureReader(settings.redis.url, settings.key_prefix, timeout_s=10.0) as reader:
        ids = [item.item_id for item in items]
        deployment.until(lambda: bool((reader.items(ids).tier == ItemTier.KNOWLEDGE).all()), "the good items")
    deployment.until(deployment.drained, "the queues to empty")
    of_items, of_events = dead_letters(deployment, topics.items), dead_letters(deployment, topics.user_events)
    reasons = sorted(dead_letter.reason for dead_letter in of_events)
    assert reasons == ["bad_framing", "future_time", "missing_user", "unknown_schema"]
    # Two lanes read items, and each answers for itself.
    assert sorted(dead_letter.reason for dead_letter in of_items) == sorted(
        ["bad_framing", "empty_title", "unknown_schema"] * 2
    )
    assert {dead_letter.value for dead_letter in of_events} == {
        value for topic, _, value in bad if topic == topics.user_events
    }
    with redis.Redis.from_url(settings.redis.url) as client:
        stored = HistoryStore(client, settings.key_prefix).load(sorted({event.user_id for event in events}))
    assert sum(len(history.item_ids) for history in stored) == len(events)


def test_nothing_is_lost_when_the_worker_is_killed(deployment: Deployment) -> None:
    """Catches a record acknowledged before its result was durable: kill -9, three times, in mid-stream."""
    items = catalogue(240)
    events = purchases(60, 100, 240, start_ms=now_ms() - 600_000)
    poison = [(deployment.topics.user_events, f"bad-{n}".encode(), b"junk") for n in range(20)]
    stream = [*items, *events, *poison]
    order = np.random.default_rng(1).permutation(len(stream))
    # One user's events must stay in order of time only in the log; a history sorts by itself.
    shuffled = [stream[k] for k in order]
    sent: list[BaseException | None] = []

    def feed() -> None:
        try:
            for start in range(0, len(shuffled), 150):
                deployment.send(shuffled[start : start + 150])
            sent.append(None)
        except BaseException as error:  # the assertion below shows it
            sent.append(error)

    feeding = threading.Thread(target=feed)
    worker = deployment.worker()
    feeding.start()
    for _ in range(3):
        time.sleep(2.0)
        os.kill(worker.pid, signal.SIGKILL)
        deployment.until(lambda dead=worker: not dead.running, "the worker to die")  # type: ignore[misc]
        worker = deployment.worker()
    feeding.join(timeout=120)
    assert sent == [None]

    settings = deployment.settings
    deployment.until(deployment.drained, "the queues to empty", timeout_s=180.0)
    users = sorted({event.user_id for event in events})
    with redis.Redis.from_url(settings.redis.url) as client:
        deployment.until(
            lambda: RefreshQueue(client, settings.version, settings.key_prefix).size() == 0,
            "every due user",
            timeout_s=60.0,
        )
        deployment.until(deployment.drained, "the last features", timeout_s=60.0)
        stored = HistoryStore(client, settings.key_prefix).load(users)
    for user_id, history in zip(users, stored, strict=True):
        wanted = sorted((e.event_time, e.item_id) for e in events if e.user_id == user_id)
        assert sorted(zip(history.event_times, history.item_ids, strict=True)) == wanted
    with FeatureReader(settings.redis.url, settings.key_prefix, timeout_s=10.0) as reader:
        read = reader.items([item.item_id for item in items])
        assert (read.tier == ItemTier.KNOWLEDGE).all()
        assert all(user.present for user in reader.users(users))
    found = {
        (dead_letter.partition, dead_letter.offset)
        for dead_letter in dead_letters(deployment, deployment.topics.user_events)
    }
    assert len(found) == len(poison)


def test_two_workers_share_the_load(deployment: Deployment) -> None:
    """Catches a second worker that does nothing, or that loses what the first one had."""
    items, events = catalogue(120), purchases(30, 30, 120, start_ms=now_ms() - 600_000)
    first = deployment.worker()
    deployment.send([*items[:60], *events[:450]])
    deployment.worker()
    deployment.send([*items[60:], *events[450:]])
    deployment.until(deployment.drained, "both halves")
    os.kill(first.pid, signal.SIGTERM)
    deployment.until(lambda: not first.running, "the first worker to leave")
    assert first.returncode() == 0
    late = catalogue(10, prefix="late")
    deployment.send(late)
    settings = deployment.settings
    with FeatureReader(settings.redis.url, settings.key_prefix, timeout_s=10.0) as reader:
        ids = [item.item_id for item in (*items, *late)]
        deployment.until(lambda: bool((reader.items(ids).tier == ItemTier.KNOWLEDGE).all()), "what came afterwards")
    with redis.Redis.from_url(settings.redis.url) as client:
        stored = HistoryStore(client, settings.key_prefix).load(sorted({event.user_id for event in events}))
    assert sum(len(history.item_ids) for history in stored) == len(events)


@pytest.mark.parametrize(
    ("arguments", "setting", "named"),
    [
        (("worker", "--lanes", "nonsense"), {}, "nonsense"),
        (("worker",), {"FRESHET_VECTORS__DIMS": "many"}, "FRESHET_VECTORS__DIMS"),
        (("features", "get", "item", "x"), {"FRESHET_REDIS": "localhost"}, "FRESHET_REDIS"),
    ],
)
def test_a_wrong_setting_is_named_and_ends_with_2(
    arguments: tuple[str, ...], setting: dict[str, str], named: str
) -> None:
    """Catches a stack trace, or a worker that starts with a setting it does not understand."""
    env = {**environment(Settings().replace(kafka="127.0.0.1:1", redis="redis://127.0.0.1:1/0")), **setting}
    done = subprocess.run(
        [sys.executable, "-m", "cli", *arguments], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
