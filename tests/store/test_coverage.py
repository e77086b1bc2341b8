"""How much of the active version another one has, on one server and on a Cluster of three."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import redis

from freshet import blob
from freshet.connect import connect, keys_for
from store.coverage import coverage, newest_write_ms, shape_of, unfit
from store.feature_writer import FeatureWriter
from store.scan import Pace, nodes, scan
from store.versions import Pinned
from tests.support.samples import item, user

DAY_MS = 86_400_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture(params=["server", "cluster"])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    url = (
        request.getfixturevalue("valkey")
        if request.param == "server"
        else request.getfixturevalue("valkey_cluster").url
    )
    client = connect(url)
    yield client
    client.close()


def write_items(client: Any, version: str, ids: Iterable[str], **change: Any) -> None:
    """As the sink leaves them: a blob each, and its id in the index of its bucket."""
    keys, pipeline = keys_for(client), client.pipeline(transaction=False)
    for one in ids:
        pipeline.set(keys.item(version, one), blob.encode_item(item(one, version=version, **change)))
        pipeline.zadd(keys.items(version, keys.bucket(one)), {one: now_ms()})
    pipeline.execute()


def write_users(client: Any, version: str, ids: Iterable[str], **change: Any) -> None:
    keys, pipeline = keys_for(client), client.pipeline(transaction=False)
    for one in ids:
        pipeline.set(keys.user(version, one), blob.encode_user(user(one, version=version, **change)))
    pipeline.execute()


ITEMS, USERS = [f"i{n}" for n in range(1_200)], [f"u{n}" for n in range(900)]


def test_what_is_missing_and_what_is_older_is_counted(client: Any) -> None:
    """Catches an activation after which a quarter of the items has no vector, or all are a day back."""
    now = now_ms()
    write_items(client, "v1", ITEMS, event_time=now - 5_000)
    write_items(client, "v2", ITEMS[:300], event_time=now - DAY_MS)
    write_items(client, "v2", ITEMS[300:900], event_time=now - 5_000)
    write_items(client, "v2", ["only-in-v2"], event_time=now)
    write_users(client, "v1", USERS, event_time=now - 9_000)
    write_users(client, "v2", USERS[:450], event_time=now - 9_000)
    found = coverage(client, "f", "v2", "v1")
    assert (found.items.looked_at, found.items.covered, found.items.older) == (1_200, 900, 300)
    assert (found.users.looked_at, found.users.covered, found.users.older) == (900, 450, 0)
    assert found.live_items == 901
    assert found.items.share == 0.75
    assert 5 <= found.items.age_s < 60
    assert 9 <= found.users.age_s < 60


def test_deleted_entities_are_not_covered_and_users_long_gone_not_asked_for(client: Any) -> None:
    """Catches marks of deletions that count as features, and a version that waits for users who left."""
    now = now_ms()
    write_users(client, "v1", USERS[:100], event_time=now - 8 * DAY_MS)
    write_users(client, "v1", USERS[100:200], event_time=now)
    write_users(client, "v2", USERS[100:200], event_time=now)
    keys = keys_for(client)
    for one in USERS[100:110]:
        client.set(keys.user("v2", one), blob.encode_deletion(now + 1, -1))
    for one in USERS[110:120]:
        client.set(keys.user("v1", one), blob.encode_deletion(now + 1, -1))
    found = coverage(client, "f", "v2", "v1")
    assert (found.users.looked_at, found.users.covered) == (90, 80)
    assert coverage(client, "f", "v2", "v1", active_within_s=9 * 86_400).users.looked_at == 190


def test_a_sample_of_users_says_about_the_share_of_all(client: Any) -> None:
    """Catches a look at millions of users, or at those of one node only."""
    now = now_ms()
    users = [f"u{n}" for n in range(6_000)]
    write_users(client, "v1", users, event_time=now)
    write_users(client, "v2", users[:4_500], event_time=now)
    steps: list[int] = []
    found = coverage(client, "f", "v2", "v1", sample=1_500, progress=steps.append)
    assert 1_500 <= found.users.looked_at < 3_200
    assert found.users.share == pytest.approx(0.75, abs=0.05)
    assert sum(steps) == found.users.looked_at


def test_nothing_is_missing_before_the_first_activation_and_against_itself(client: Any) -> None:
    """Catches a first activation that is refused, and a status of the active version that calls it incomplete."""
    write_items(client, "v1", ITEMS[:50], event_time=now_ms())
    first = coverage(client, "f", "v1", None)
    assert (first.items.share, first.users.share, first.live_items) == (1.0, 1.0, 50)
    assert first.items.age_s == float("inf")
    itself = coverage(client, "f", "v1", "v1")
    assert (itself.items.looked_at, itself.items.share, itself.items.older) == (50, 1.0, 0)


def test_the_writer_leaves_what_coverage_reads(valkey: str) -> None:
    """Catches an index or a shape that the writer keeps elsewhere."""
    with redis.Redis.from_url(valkey) as client:
        assert (shape_of(client, "f", "v1"), newest_write_ms(client, "f", "v1")) == ("", 0)
        FeatureWriter(client).put_items([item("i1"), item("i2")])
        FeatureWriter(client).put_users([user("u1", event_time=now_ms())])
        FeatureWriter(client).put_items([item("i1", version="v2")])
        found = coverage(client, "f", "v2", "v1")
        assert (found.items.looked_at, found.items.covered, found.users.looked_at) == (2, 1, 1)
        assert shape_of(client, "f", "v1") == "8 float16"
        assert abs(newest_write_ms(client, "f", "v1") - now_ms()) < 60_000


REQUIRED = {"schema": "sink", "dims": "sink", "dtype": "sink", "encoder": "item-text", "aligner": "item-text"}
REQUIRED["reasoner"] = "user-refresh"
WHOLE = {name: Pinned("x") for name in REQUIRED} | {"dims": Pinned("8"), "dtype": Pinned("float16")}


def test_a_whole_and_covered_version_is_fit(client: Any) -> None:
    """Catches a check that no version passes."""
    write_items(client, "v1", ITEMS[:100])
    write_items(client, "v2", ITEMS[:99])
    found = coverage(client, "f", "v2", "v1")
    assert unfit(found, WHOLE, "8 float16", REQUIRED) == []
    assert unfit(found, WHOLE, "", REQUIRED) == []


def test_every_reason_is_named_with_the_way_out(client: Any) -> None:
    """Catches an operator who mends one thing and is refused for the next."""
    write_items(client, "v1", ITEMS[:100])
    write_items(client, "v2", ITEMS[:98])
    write_users(client, "v1", USERS[:100], event_time=now_ms())
    write_users(client, "v2", USERS[:94], event_time=now_ms())
    found = coverage(client, "f", "v2", "v1")
    manifest = {name: one for name, one in WHOLE.items() if name not in ("reasoner", "schema")}
    missing, shape, items, users = unfit(found, manifest, "16 float16", REQUIRED)
    assert "schema" in missing
    assert "reasoner" in missing
    assert "user-refresh" in missing
    assert "16 float16" in shape
    assert "98 of 100 live items" in items
    assert "freshet replay --into v2" in items
    assert "94 of 100 active users" in users
    assert unfit(found, WHOLE, "", REQUIRED, least_items=0.9, least_users=0.9) == []


def test_a_walk_keeps_to_its_pace() -> None:
    """Catches a clean-up at 3 a.m. that takes the server for itself."""
    now, slept = 0.0, list[float]()

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    pace = Pace(1_000, clock=lambda: now, sleep=sleep)
    for _ in range(10):
        pace.spend(500)
    assert now == pytest.approx(5.0)
    now += 100  # idle: nothing is saved up
    pace.spend(500)
    assert slept[-1] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="rate"):
        Pace(0)


def test_a_walk_finds_every_key_of_every_node(client: Any) -> None:
    """Catches keys of the second node, or beyond the first step."""
    write_users(client, "v1", USERS)
    found = {key for node in nodes(client) for keys in scan(client, "f:v1:u:*", Pace(1e9), node=node) for key in keys}
    assert found == {keys_for(client).user("v1", one).encode() for one in USERS}
