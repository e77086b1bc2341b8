"""`freshet erase`, and null records, on the real broker: nothing of a user is left, and nothing brings it back."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from freshet.header import decode_header
from freshet.layout import Keys
from freshet.records import DeadLetter, ItemFeatures, ItemTier, UserEvent, UserFeatures, UserTier
from schemas.codec import Codec
from store.erasure_watermarks import Erasures, digest
from store.feature_writer import FeatureWriter
from store.histories import HistoryBatch, HistoryEvent, HistoryStore, QueuedVersions
from store.refresh_queue import RefreshQueue
from store.versions import Versions
from streams.jobs.dead_letters.read import dead_letter_ranges, read_dead_letters
from streams.jobs.erasure.dead_letter_sweep import names_user, sweep_owed
from streams.kafka.topics import Topics
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.streams.lanes.test_item_distill_outage import running
from tests.support.lane_tools import make_topics, read_all, send_all, until
from tests.support.lanes import user_refresh

CODEC = Codec()
NOW = 1_760_000_000_000
KEYS = Keys("f")
USER, OTHER = "user-to-erase", "user-to-keep"


@pytest.fixture
def settings(kafka: str, valkey: str, topic_prefix: str) -> Settings:
    made = Settings.load({}, kafka=kafka, redis=valkey, topic_prefix=topic_prefix, partitions=2, dims=8)
    make_topics(made)
    make_topics(made.replace(version="v2"))
    return made


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


def run(settings: Settings, *arguments: str, code: int = 0) -> dict[str, Any]:
    environment = {
        **os.environ,
        "FRESHET_KAFKA": settings.kafka.servers,
        "FRESHET_REDIS": settings.redis.url,
        "FRESHET_TOPIC_PREFIX": settings.topic_prefix,
        "FRESHET_VECTORS__DIMS": "8",
    }
    command = [sys.executable, "-m", "cli", "erase", *arguments, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert USER not in done.stderr
    answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return answer


def event(user: str, n: int = 0, timestamp: int = NOW) -> tuple[bytes, bytes]:
    return user.encode(), CODEC.encode(UserEvent(user, f"i{n}", "view", timestamp + n, f"e{user}{n}"))


def features(user: str, version: str) -> UserFeatures:
    return UserFeatures(user, version, UserTier.FALLBACK, NOW + 2, NOW, 8, bytes(16), bytes(16))


def dead_letter(n: int, key: bytes | None, value: bytes | None, topic: str) -> tuple[bytes | None, bytes]:
    one = DeadLetter(topic, 0, n, NOW, key, value, (), "bad_framing", "user-events/decode", 1, "", "", "", NOW)
    return key, CODEC.encode(one)


def fill(settings: Settings, client: redis.Redis) -> list[int]:
    """Both users everywhere; answers the positions of the letters that name the one who goes."""
    for version in ("v1", "v2"):
        Versions(client).create(version)
        FeatureWriter(client).put_users([features(USER, version), features(OTHER, version)])
    events = [HistoryEvent(user, f"i{n}", "view", NOW + n, f"e{n}") for user in (USER, OTHER) for n in range(3)]
    HistoryStore(client).append(HistoryBatch.of(events), QueuedVersions(["v1", "v2"]))
    topic = Topics(settings).user_events
    mine, theirs = event(USER)[1], event(OTHER)[1]
    dead_letters = [
        dead_letter(0, USER.encode(), b"broken", topic),
        dead_letter(1, OTHER.encode(), mine, topic),  # under another's key: a mismatch is why it is here
        dead_letter(2, None, b"\x00" + USER.encode() + b"\x01", topic),
        dead_letter(3, OTHER.encode(), b"broken", topic),
        dead_letter(4, OTHER.encode(), theirs, topic),
        dead_letter(5, None, b"nobody", topic),
    ]
    send_all(settings, Topics.dead_letters(topic), dead_letters)
    others = Topics(settings, "v2").user_features
    send_all(settings, Topics.dead_letters(others), [dead_letter(0, USER.encode(), b"broken", others)])
    return [0, 1, 2]


def positions(settings: Settings) -> list[int]:
    topic = Topics.dead_letters(Topics(settings).user_events)
    return sorted(
        one.position.offset for one in read_dead_letters(settings, CODEC, dead_letter_ranges(settings, topic))
    )


def test_a_user_is_gone_everywhere_and_the_receipt_says_so(
    settings: Settings, client: redis.Redis, tmp_path: Path
) -> None:
    """Catches anything of a user left behind in any version, set or letter, or of a neighbor taken along."""
    named = fill(settings, client)
    known = run(settings, USER)
    assert known == {"execute": False, "users": {USER: {"events": 3, "features": ["v1", "v2"]}}}
    assert HistoryStore(client).load([USER])[0].item_ids, "a dry run changes nothing"
    before = time.time_ns() // 1_000_000
    answer = run(settings, USER, "--execute", "--receipt", str(tmp_path / "receipt.json"))
    [receipt] = answer["receipts"]
    assert (receipt["user_digest"], receipt["events"], receipt["features"]) == (digest(USER), 3, ["v1", "v2"])
    assert before <= receipt["erased_ms"] <= before + 60_000
    assert receipt["owed"] == []
    assert answer["dead_letters"] == {
        Topics.dead_letters(Topics(settings).user_events): len(named),
        Topics.dead_letters(Topics(settings, "v2").user_features): 1,
    }
    assert USER not in (tmp_path / "receipt.json").read_text()

    assert not client.exists(KEYS.history(USER))
    for version in ("v1", "v2"):
        header = decode_header(client.get(KEYS.user(version, USER)))  # type: ignore[arg-type]
        assert header is not None
        assert header.deleted
        for key in (KEYS.due(version), KEYS.waiting(version), KEYS.leased(version), KEYS.refreshed(version)):
            assert client.zscore(key, USER) is None
        deletions = read_all(settings.kafka.servers, Topics(settings, version).user_features)
        assert [(one.key, one.value) for one in deletions] == [(USER.encode(), None)]
    assert positions(settings) == [3, 4, 5]
    assert Erasures(client).timestamps([USER, OTHER]) == [receipt["erased_ms"], 0]
    assert Erasures(client).pending() == {}
    [null] = read_all(settings.kafka.servers, Topics(settings).user_events)
    assert (null.key, null.value, null.timestamp) == (USER.encode(), None, receipt["erased_ms"])
    left = [key for key in client.scan_iter("*") if USER.encode() in key]
    assert left == [KEYS.user(version, USER).encode() for version in ("v2", "v1")] or len(left) == 2

    kept = HistoryStore(client).load([OTHER])[0]
    assert len(kept.item_ids) == 3
    assert client.zscore(KEYS.due("v1"), OTHER) is not None


def test_wrong_use_says_so(settings: Settings) -> None:
    """Catches an erasure of nobody, or of a name that no key can have, that reports success."""
    run(settings, code=2)
    run(settings, " ", "--execute", code=2)


@pytest.mark.timeout(240)
async def test_nothing_brings_an_erased_user_back(settings: Settings, client: redis.Redis) -> None:
    """Catches a dump sent again, a dead letter replayed, and a rebuild after Redis was lost."""
    topics = Topics(settings)
    late = NOW + 10
    async with running(settings, "user-events", "sink"):
        await asyncio.to_thread(
            send_all, settings, topics.user_events, [event(USER, n) for n in range(3)] + [event(OTHER)]
        )
        await until(lambda: client.zcard(KEYS.history(USER)) == 3, "the history")
        await asyncio.to_thread(send_all, settings, topics.user_events, [(USER.encode(), None)])
        await until(lambda: not client.exists(KEYS.history(USER)), "the erasure")
        dump = [event(USER, n) for n in range(3)] + [event(OTHER, 5, late)]
        await asyncio.to_thread(send_all, settings, topics.user_events, dump)
        await until(lambda: client.zcard(KEYS.history(OTHER)) == 2, "what came after the dump")
        assert not client.exists(KEYS.history(USER))
        assert Erasures(client).pending().keys() == {USER}

        resources = Resources(settings)
        assert await asyncio.to_thread(sweep_owed, resources) == 1
        assert Erasures(client).pending() == {}
        await resources.close()
    client.flushall()
    environment = {
        **os.environ, "FRESHET_KAFKA": settings.kafka.servers, "FRESHET_REDIS": settings.redis.url,
        "FRESHET_TOPIC_PREFIX": settings.topic_prefix, "FRESHET_VECTORS__DIMS": "8",
    }  # fmt: skip
    for more in ([], ["--verify"]):
        command = [sys.executable, "-m", "cli", "rebuild", *more]
        done = await asyncio.to_thread(
            lambda command=command: subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert not client.exists(KEYS.history(USER))
    assert client.zcard(KEYS.history(OTHER)) == 2
    [timestamp] = Erasures(client).timestamps([USER])
    assert timestamp > NOW
    async with running(settings, "user-events"):
        again = [event(USER, 9), event(USER, 0, timestamp + 1), event(OTHER, 6, late)]
        await asyncio.to_thread(send_all, settings, topics.user_events, again)
        await until(lambda: client.zcard(KEYS.history(OTHER)) == 3, "the last event")
    assert HistoryStore(client).load([USER])[0].event_times == (timestamp + 1,), "who comes back is a new user"


async def test_a_refresh_under_way_publishes_nobody_who_was_erased_meanwhile(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches features that follow their user's deletion on a compacted topic, and so are kept for ever."""
    vectors = np.random.default_rng(0).standard_normal((10, 8)).astype("<f2")
    items = [ItemFeatures(f"i{n}", "v1", ItemTier.TEXT, NOW, NOW, 8, v.tobytes()) for n, v in enumerate(vectors)]
    FeatureWriter(client).put_items(items)
    users = [USER, OTHER, "user-erased-late"]
    events = [HistoryEvent(user, f"i{n}", "view", NOW + n, f"e{n}") for user in users for n in range(3)]
    HistoryStore(client).append(HistoryBatch.of(events), QueuedVersions(["v1"]))
    resources = Resources(settings)
    lane = user_refresh(resources)
    await asyncio.to_thread(lane._inference.reasoner.refresher)
    infer, send = lane._inference.infer, lane._publisher._send

    def erased_while_inferring(histories: Any) -> Any:
        made = infer(histories)
        HistoryStore(client).erase({USER: NOW + 100}, QueuedVersions(["v1"]))
        return made

    async def erased_while_publishing(made: Any) -> None:
        HistoryStore(client).erase({"user-erased-late": NOW + 100}, QueuedVersions(["v1"]))
        await send(made)

    monkeypatch.setattr(lane._inference, "infer", erased_while_inferring)
    monkeypatch.setattr(lane._publisher, "_send", erased_while_publishing)
    assert await lane.refresh_once() == 3
    await resources.close()
    records = await asyncio.to_thread(read_all, settings.kafka.servers, Topics(settings).user_features)
    last = {record.key: record.value for record in records}
    assert last.keys() == {OTHER.encode(), b"user-erased-late"}
    assert last[b"user-erased-late"] is None
    assert last[OTHER.encode()] is not None
    assert RefreshQueue(client, "v1").size() == 0


def test_letters_of_others_are_not_taken_for_a_short_id() -> None:
    """Catches a user called 7 whose erasure takes every letter with a 7 in it."""
    from streams.jobs.dead_letters.read import StoredDeadLetter
    from streams.kafka.record import SourceRecord

    def about(key: bytes | None, value: bytes | None, timestamp: int = NOW) -> StoredDeadLetter:
        one = DeadLetter("user-events", 0, 1, timestamp, key, value, (), "r", "s", 1, "", "", "", NOW)
        return StoredDeadLetter(SourceRecord("user-events.dlq", 0, 0, NOW, key, b""), one)

    which = names_user(CODEC, Topics(Settings.load({})), {"7": NOW, USER: NOW})
    assert which(about(b"7", b"x"))
    assert not which(about(None, b"17 and 7"))
    assert not which(about(b"8", event(OTHER, 7)[1]))
    assert which(about(None, b"..." + USER.encode()))
    assert not which(about(None, b"..." + USER.encode(), NOW + 1)), "bytes that came after the erasure are new, too"
    assert not which(about(USER.encode(), b"x", NOW + 1)), "what came after the erasure is a new user's"
