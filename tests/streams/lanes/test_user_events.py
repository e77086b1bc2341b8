from __future__ import annotations

import asyncio
from collections import Counter

import pytest
import redis

from freshet.records import DeadLetter, Erasure, UserEvent
from local.stack.valkey import ValkeyServer
from schemas.codec import Codec
from store.erasure_watermarks import Erasures, digest
from store.histories import HistoryStore
from store.refresh_queue import RefreshQueue
from streams.consumers import batch_consumer
from streams.lanes.user_events import UserEventsLane
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.support.lane_tools import committed, make_topics, read_all, send_all, until
from tests.support.lanes import user_events

CODEC = Codec()
NOW = 1_700_000_000_000


class Flow:
    """The lane's topics on the real broker, what was sent, and what Redis holds of it."""

    def __init__(self, kafka: str, url: str, prefix: str, **overrides):
        self.settings = Settings.load({}, kafka=kafka, redis=url, topic_prefix=prefix, **overrides)
        self.topics = make_topics(self.settings)
        self.client = redis.Redis.from_url(url)
        self.sent = 0
        self.open: list[UserEventsLane] = []

    def send(self, *records: tuple[bytes | None, bytes | None]) -> None:
        send_all(self.settings, self.topics.user_events, records)
        self.sent += len(records)

    async def lane(self) -> UserEventsLane:
        resources = Resources(self.settings, clock=lambda: NOW)
        lane = user_events(resources)
        lane.resources = resources
        await lane.start()
        self.open.append(lane)
        return lane

    async def stop(self, lane: UserEventsLane) -> None:
        self.open.remove(lane)
        await lane.stop()
        await lane.resources.close()

    def committed(self) -> int:
        group = f"{self.settings.topic_prefix}freshet-user-events"
        offsets = [
            committed(self.settings.kafka.servers, group, self.topics.user_events, p)
            for p in range(self.settings.kafka.partitions)
        ]
        return sum(offset or 0 for offset in offsets)

    def done(self) -> bool:
        return self.committed() == self.sent

    def items(self, user: str) -> list[str]:
        return list(HistoryStore(self.client).load([user])[0].item_ids)

    async def close(self) -> None:
        for lane in list(self.open):
            await self.stop(lane)
        self.client.close()


@pytest.fixture
async def flow(kafka, valkey, topic_prefix, monkeypatch):
    made = []

    def make(url=valkey, batch_records=batch_consumer.BATCH_RECORDS, **overrides):
        monkeypatch.setattr(batch_consumer, "BATCH_RECORDS", batch_records)
        made.append(Flow(kafka, url, topic_prefix, **overrides))
        return made[-1]

    yield make
    for one in made:
        await one.close()


def event(user="u", item="i", time=NOW, **more) -> tuple[bytes, bytes]:
    return user.encode(), CODEC.encode(UserEvent(user, item, "view", time, **more))


def stream(count: int, users: int = 20) -> list[tuple[bytes, bytes]]:
    return [event(f"u{n % users}", f"i{n}", NOW - count + n) for n in range(count)]


def whole(flow: Flow, count: int, users: int = 20) -> bool:
    """Every user's history is exactly what `stream` sent: nothing lost, nothing doubled."""
    return all(flow.items(f"u{u}") == [f"i{n}" for n in range(u, count, users)] for u in range(users))


async def test_events_become_histories_and_due_users(flow):
    f = flow(history_length=5)
    f.send(*stream(200))
    await f.lane()
    await until(f.done, "the commit")
    assert f.items("u3") == [f"i{n}" for n in range(103, 200, 20)]
    assert RefreshQueue(f.client, "v1").size() == 20


async def test_each_kind_of_poison_is_a_dead_letter_and_the_rest_of_its_batch_is_kept(flow):
    # Catches a batch lost, or a lane stopped, for one bad record; and a reason that misleads the operator.
    f = flow(partitions=1)
    _, good = event()
    poison = {
        "bad_framing": (b"u", b"not avro"),
        "unknown_schema": (b"u", b"\xc3\x01" + bytes(8) + good[10:]),
        "bad_payload": (b"u", good + b"\0"),
        "future_time": event(time=NOW + 301_000),
        "bad_time": event(time=1_700_000_000),
        "missing_user": event(user=" "),
        "missing_item": event(item=""),
        "bad_number": event(value=float("nan")),
        "too_large": event(item="x" * 600),
        "key_mismatch": (b"somebody else", good),
    }
    records = [(b"u", CODEC.encode(UserEvent("u", f"i{n}", "view", NOW - 100 + n))) for n in range(len(poison) + 1)]
    mixed = [record for pair in zip(records, poison.values(), strict=False) for record in pair] + [records[-1]]
    f.send(*mixed, (None, None), (b"\xff", None))
    await f.lane()
    await until(f.done, "the commit")
    assert f.items("u") == [f"i{n}" for n in range(len(records))]
    dead_letters = [
        CODEC.decode(DeadLetter, record.value)
        for record in read_all(f.settings.kafka.servers, f.topics.dead_letters(f.topics.user_events))
    ]
    assert {dead_letter.reason: (dead_letter.key, dead_letter.value) for dead_letter in dead_letters[:-2]} == poison
    assert [(dead_letter.reason, dead_letter.value) for dead_letter in dead_letters[-2:]] == [
        ("key_mismatch", None)
    ] * 2
    assert {dead_letter.stage for dead_letter in dead_letters} == {"user-events/decode", "user-events/validate"}
    assert len(dead_letters) == len(poison) + 2


async def test_a_null_value_erases_what_came_before_it_and_nothing_else(flow):
    # Catches an erasure applied out of order inside a batch, or forgotten features.
    f = flow(partitions=1)
    f.send(event("a", "old", NOW - 9), event("b", "kept", NOW - 8), (b"a", None), event("a", "new", NOW + 20))
    f.send(event("a", "sent late", NOW - 20))
    f.send((b"never seen", None))
    await f.lane()
    await until(f.done, "the commit")
    assert f.items("a") == ["new"]
    assert f.items("b") == ["kept"]
    deletions = read_all(f.settings.kafka.servers, f.topics.user_features)
    assert [(record.key, record.value) for record in deletions] == [(b"a", None), (b"never seen", None)]
    # The lane's clock stands at NOW: a moment to come counts as now, and whoever erases can not erase the future.
    assert {record.timestamp for record in deletions} == {NOW}
    kept = [CODEC.decode(Erasure, record.value) for record in read_all(f.settings.kafka.servers, f.topics.erasures)]
    assert sorted(kept, key=str) == sorted((Erasure(digest(user), NOW) for user in ("a", "never seen")), key=str)
    assert Erasures(f.client).timestamps(["a", "b", "never seen"]) == [NOW, 0, NOW]
    assert Erasures(f.client).pending() == {"a": NOW, "never seen": NOW}


async def test_a_crash_between_write_and_commit_doubles_nothing(flow, monkeypatch):
    # Catches histories that are not idempotent, and commits that come before the write.
    f = flow(batch_records=100)
    f.send(*stream(400))
    append = HistoryStore.append
    calls = []

    def crash_after_the_third(store, batch, versions):
        written = append(store, batch, versions)
        calls.append(len(batch))
        if sum(calls) > 250:
            raise RuntimeError("crash")
        return written

    monkeypatch.setattr(HistoryStore, "append", crash_after_the_third)
    monkeypatch.setattr("streams.consumers.batch_consumer.COMMIT_INTERVAL_S", 0.0)
    lane = await f.lane()
    assert str(await asyncio.wait_for(lane.wait_failed(), 20)) == "crash"
    await f.stop(lane)
    assert f.committed() < sum(calls)  # the last batch is written and not committed: it comes again
    monkeypatch.setattr(HistoryStore, "append", append)
    await f.lane()
    await until(f.done, "the commit")
    assert whole(f, 400)


async def test_redis_that_goes_away_and_comes_back_mid_stream_loses_nothing(flow, tmp_path):
    # Catches records dropped, dead-lettered or committed while Redis is down.
    server = ValkeyServer(folder=tmp_path)
    url = server.start()
    try:
        f = flow(url, batch_records=50)
        sent = stream(3_000)
        f.send(*sent[:1_000])
        lane = await f.lane()
        await until(lambda: f.committed() > 200, "the stream to flow")
        server.stop()
        f.send(*sent[1_000:2_000])
        await until(lambda: lane._loop._paused, "the lane to notice")
        before = f.committed()
        await asyncio.sleep(1.0)
        assert f.committed() == before < 2_000
        server = ValkeyServer(folder=tmp_path, port=server.port)
        server.start()
        f.send(*sent[2_000:])
        await until(f.done, "the commit", timeout_s=60)
        assert whole(f, 3_000)
        assert read_all(f.settings.kafka.servers, f.topics.dead_letters(f.topics.user_events)) == []
        await f.close()
    finally:
        server.stop()


async def test_two_workers_share_the_load_and_a_join_loses_and_doubles_nothing(flow):
    f = flow(batch_records=20, history_length=1_000)
    sent = stream(6_000)
    f.send(*sent[:4_000])
    first = await f.lane()
    await until(lambda: f.committed() > 0, "the first worker's start")
    second = await f.lane()
    await until(lambda: second._loop._assigned, "the second worker's share")
    f.send(*sent[4_000:5_000])
    await f.stop(first)
    f.send(*sent[5_000:])
    await until(f.done, "the commit")
    assert whole(f, 6_000)
    per_user = Counter(len(f.items(f"u{u}")) for u in range(20))
    assert per_user == {300: 20}
