"""`freshet rebuild` on the real broker: an emptied Redis filled from the log, and a comparison that finds fault."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

from freshet.header import decode_header
from freshet.layout import Keys
from freshet.records import Item, ItemFeatures, ItemTier, UserEvent
from schemas.codec import Codec
from store.feature_writer import FeatureWriter
from store.histories import HistoryBatch, HistoryEvent, HistoryStore, QueuedVersions
from store.refresh_queue import RefreshQueue
from store.versions import Versions
from streams.kafka.topics import Topics
from streams.settings import Settings
from tests.streams.lanes.test_item_distill_outage import acknowledged, running
from tests.support.fakes_llm import FakeLlmServer
from tests.support.lane_tools import make_topics, read_all, send_all, until

CODEC = Codec()
NOW = 1_760_000_000_000
ITEMS, USERS = 30, 20
KEYS = Keys("f")


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


def run(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where no model is to be had: no weights, and nobody answers as an LLM."""
    environment = {
        **os.environ,
        "FRESHET_HOME": "/nowhere",
        "FRESHET_LLM": "http://127.0.0.1:9/v1",
        "FRESHET_KAFKA": settings.kafka.servers,
        "FRESHET_REDIS": settings.redis.url,
        "FRESHET_TOPIC_PREFIX": settings.topic_prefix,
        "FRESHET_HISTORY_LENGTH": "5",
    }
    command = [sys.executable, "-m", "cli", "rebuild", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


async def answer(settings: Settings, *arguments: str, code: int = 0) -> dict[str, Any]:
    result = await asyncio.to_thread(run, settings, *arguments, "--json")
    assert result.returncode == code, result.stdout + result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def event(user: int, n: int) -> tuple[bytes, bytes]:
    name = f"e{user}-{n}" if n % 2 else ""
    one = UserEvent(f"u{user}", f"i{(user + n) % ITEMS}", "view", NOW + 1_000 * n + user, name)
    return one.user_id.encode(), CODEC.encode(one)


@pytest.fixture
async def filled(kafka: str, valkey: str, topic_prefix: str, client: redis.Redis) -> AsyncIterator[Settings]:
    """A deployment whose log has all that a rebuild must bear: updates, deletions, erasures, bad records."""
    with FakeLlmServer() as llm:
        settings = Settings.load(
            {}, kafka=kafka, redis=valkey, topic_prefix=topic_prefix, llm=llm.url, partitions=2, history_length=5,
            refresh_interval_s=0.2,
        )  # fmt: skip
        topics = await asyncio.to_thread(make_topics, settings)
        items: list[tuple[bytes | None, bytes | None]] = [
            (b"i%d" % n, CODEC.encode(Item(f"i{n}", NOW + n, f"Thing {n}"))) for n in range(ITEMS)
        ]
        items += [(b"i3", None), (b"i4", CODEC.encode(Item("i4", NOW + 9_000, "Better thing"))), (b"x", b"bad")]
        events: list[tuple[bytes | None, bytes | None]] = [event(u, n) for n in range(9) for u in range(USERS)]
        # The user comes back after the erasure, by the clock that the erasure is counted by.
        back = UserEvent("u1", "i7", "view", time.time_ns() // 1_000_000 + 200_000, "back again")
        events += [(b"u1", None), (b"u1", CODEC.encode(back)), event(1, 20), (b"u2", None)]
        events += [(None, None), (b"y", b"bad")]
        await asyncio.to_thread(send_all, settings, topics.items, items)
        async with running(settings, "item-text", "item-distill", "user-events", "user-refresh", "sink"):
            await until(lambda: client.zcard(KEYS.items("v1")) == ITEMS - 1, "the items", 60)
            await asyncio.to_thread(send_all, settings, topics.user_events, events)
            due = RefreshQueue(client, "v1")
            await until(lambda: acknowledged(settings, len(items)) or True, "the commit")
            await until(lambda: knowledge_keys(client) == ITEMS, "the knowledge", 60)
            await until(lambda: user_keys(client) >= USERS and due.size() + due.leased() == 0, "the users", 60)
            await asyncio.sleep(1.0)
        yield settings


def knowledge_keys(client: redis.Redis) -> int:
    return len(list(client.scan_iter("f:v1:k:*")))


def user_keys(client: redis.Redis) -> int:
    return len(list(client.scan_iter("f:v1:u:*")))


def everything(client: redis.Redis) -> dict[str, Any]:
    """What readers and lanes see of a version: features, knowledge, cache and histories, without marks of deletions."""
    found: dict[str, Any] = {}
    for pattern in ("f:v1:i:*", "f:v1:u:*", "f:v1:k:*", "f:kc:*", "f:v1:kp:*"):
        for key in client.scan_iter(pattern):
            blob = client.get(key)
            header = decode_header(blob)  # type: ignore[arg-type]
            if not (header and header.deleted):
                found[key.decode()] = blob
    for key in client.scan_iter("f:h:*"):
        found[key.decode()] = client.zrange(key, 0, -1, withscores=True)
    found["items"] = sorted(client.zrange(KEYS.items("v1"), 0, -1))
    return found


@pytest.mark.timeout(240)
async def test_an_emptied_redis_is_filled_from_the_log_alone(filled: Settings, client: redis.Redis) -> None:
    """Catches anything that only Redis knew, an erased user that comes back, and a rebuild that needs a model."""
    before = everything(client)
    sources = Topics(filled).items, Topics(filled).user_events
    dead_letters = [read_all(filled.kafka.servers, Topics.dead_letters(topic)) for topic in sources]
    assert [len(one) for one in dead_letters] == [2, 2]
    found = await answer(filled, "--verify")
    assert found["differences"] == 0, found
    assert found["compared"] == {"item": ITEMS, "user": USERS, "knowledge": ITEMS, "history": USERS}
    client.flushall()
    client.function_flush()
    built = await answer(filled)
    assert built["activated"]
    assert built["due"] == 0
    assert built["refused"] == {"key_mismatch": 1, "bad_framing": 1}
    assert Versions(client).active() == "v1"
    assert everything(client) == before
    assert (await answer(filled, "--verify"))["differences"] == 0
    history = HistoryStore(client, length=5).load(["u1", "u2"])
    assert [one.item_ids for one in history] == [("i7",), ()]
    for topic, was in zip(sources, dead_letters, strict=True):
        assert len(read_all(filled.kafka.servers, Topics.dead_letters(topic))) == len(was)
    again = await answer(filled)
    assert (again["activated"], again["due"]) == (False, 0)
    assert everything(client) == before


@pytest.mark.timeout(240)
async def test_verify_finds_each_kind_of_difference(filled: Settings, client: redis.Redis) -> None:
    """Catches a comparison that never fails: every way in which Redis can be wrong is put there and must be named."""
    old = ItemFeatures("i5", "v1", ItemTier.TEXT, NOW - 1, NOW, 128, b"\0" * 256)
    newer = ItemFeatures("i6", "v1", ItemTier.TEXT, NOW + 10**9, NOW, 128, b"\0" * 256)
    orphan = ItemFeatures("nobody", "v1", ItemTier.TEXT, NOW, NOW, 128, b"\0" * 256)
    revived = ItemFeatures("i3", "v1", ItemTier.TEXT, NOW, NOW, 128, b"\0" * 256)
    client.delete(KEYS.item("v1", "i5"), KEYS.item("v1", "i7"), KEYS.item("v1", "i3"), KEYS.user("v1", "u3"))
    client.delete(KEYS.knowledge("v1", "i8"), KEYS.history("u4"))
    FeatureWriter(client).put_items([old, newer, orphan, revived])
    blob = client.get(KEYS.item("v1", "i9"))
    assert isinstance(blob, bytes)
    client.set(KEYS.item("v1", "i9"), blob[:-1] + bytes([blob[-1] ^ 1]))
    client.zremrangebyrank(KEYS.history("u5"), 0, 0)
    invented = [HistoryEvent("u6", "i0", "view", NOW + 10**8, "e"), HistoryEvent("ghost", "i0", "view", NOW, "x")]
    HistoryStore(client, length=5).append(HistoryBatch.of(invented), QueuedVersions(others=["v1"]))
    found = await answer(filled, "--verify", code=1)
    named = {(row["kind"], row["difference"]): sorted(row["examples"]) for row in found["by_kind"]}
    assert named == {
        ("item", "older"): ["i5"],
        ("item", "newer"): ["i6"],
        ("item", "missing"): ["i7"],
        ("item", "different"): ["i9"],
        ("item", "extra"): ["i3", "nobody"],
        ("user", "missing"): ["u3"],
        ("knowledge", "missing"): ["i8"],
        ("history", "missing"): ["u4", "u5"],
        ("history", "extra"): ["ghost", "u6"],
    }
    assert found["differences"] == 12
    shown = await asyncio.to_thread(run, filled, "--verify")
    assert shown.returncode == 1
    assert "12 differences. Next: freshet rebuild" in shown.stdout
    built = await answer(filled)
    assert built["due"] == 2, "ghost and u6: their newest event is in no features"
    left = await answer(filled, "--verify", code=1)
    kinds = {(row["kind"], row["difference"]) for row in left["by_kind"]}
    # What is lost or old is mended; what is newer than the log, or was put there by nobody, stays and is named.
    assert kinds == {("item", "newer"), ("item", "different"), ("item", "extra"), ("history", "extra")}


async def test_the_cache_of_answers_is_filled_too(filled: Settings, client: redis.Redis) -> None:
    """Catches a rebuild after which every item costs its tokens again."""
    rows = sorted(client.scan_iter("f:kc:*"))
    assert rows
    client.flushall()
    await answer(filled)
    assert sorted(client.scan_iter("f:kc:*")) == rows
