"""Tombstone times of erased users: no older event is ever kept, in whatever order and batch events come."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import redis

from freshet.layout import Keys
from store.erasure_watermarks import Erasures, digest
from store.histories import HistoryBatch, HistoryEvent, HistoryStore, QueuedVersions

V1 = QueuedVersions(["v1"])
NOW = 1_700_000_000_000


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


def event(user: str, timestamp: int, n: int = 0) -> HistoryEvent:
    return HistoryEvent(user, f"i{n}", "view", timestamp, f"e{n}")


def times(store: HistoryStore, user: str) -> list[int]:
    return list(store.load([user])[0].event_times)


def test_what_is_older_never_comes_in_again(client: redis.Redis) -> None:
    """Catches an old dump, another partition or a late retry that brings an erased user back."""
    store = HistoryStore(client)
    store.append(HistoryBatch.of([event("a", NOW), event("b", NOW)]))
    store.erase({"a": NOW + 5})
    store.append(
        HistoryBatch.of([event("a", NOW, 1), event("a", NOW + 5, 2), event("a", NOW + 6, 3), event("b", 1, 4)])
    )
    assert times(store, "a") == [NOW + 6]
    assert times(store, "b") == [1, NOW]
    assert Erasures(client).timestamps(["a", "b"]) == [NOW + 5, 0]


def test_an_erasure_heard_again_leaves_what_came_since(client: redis.Redis) -> None:
    """Catches a redelivery or a rebuild that deletes what the user did after coming back."""
    store = HistoryStore(client)
    store.erase({"a": NOW})
    store.append(HistoryBatch.of([event("a", NOW + 1)]), V1)
    store.erase({"a": NOW}, V1)
    store.erase({"a": NOW - 7}, V1)
    assert times(store, "a") == [NOW + 1]
    assert Erasures(client).timestamps(["a"]) == [NOW]
    assert client.zscore(Keys("f").due("v1"), "a") is not None


def test_what_said_it_was_from_the_future_goes_too(client: redis.Redis) -> None:
    """Catches an event of a phone whose clock is ahead that survives its user's erasure."""
    store = HistoryStore(client)
    store.append(HistoryBatch.of([event("a", NOW + 1_000)]))
    store.erase({"a": NOW})
    assert times(store, "a") == []


def test_a_moment_to_come_counts_as_now(client: redis.Redis) -> None:
    """Catches a producer with a wrong clock that locks a user out for years."""
    store = HistoryStore(client)
    store.erase({"a": 4_000_000_000_000})
    [timestamp] = Erasures(client).timestamps(["a"])
    assert NOW < timestamp < 3_000_000_000_000
    store.append(HistoryBatch.of([event("a", timestamp + 1)]))
    assert times(store, "a") == [timestamp + 1]


def test_tombstone_times_are_restored_and_never_go_back(client: redis.Redis) -> None:
    """Catches a rebuild that puts an older time over a newer one, and a list of the erased by id."""
    erasures = Erasures(client)
    HistoryStore(client).erase({"a": NOW})
    erasures.restore({digest("a"): NOW - 1, digest("b"): NOW})
    assert erasures.timestamps(["a", "b", "c"]) == [NOW, NOW, 0]
    assert erasures.timestamps([]) == []
    assert b"a" not in client.zrange(Keys("f").erased(), 0, -1)


def test_erasures_are_pending_until_they_are_done(client: redis.Redis) -> None:
    """Catches dead letters of an erased user that nobody remembers to remove."""
    erasures = Erasures(client)
    erasures.add_pending({"a": NOW, "b": NOW})
    erasures.add_pending({"a": NOW + 1})
    erasures.add_pending({})
    assert erasures.pending() == {"a": NOW + 1, "b": NOW}
    erasures.done({"a": NOW, "b": NOW, "nobody": NOW})
    assert erasures.pending() == {"a": NOW + 1}, "who was erased again meanwhile is still pending"
    erasures.done({"a": NOW + 1})
    assert erasures.pending() == {}


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_events_erasures_and_replays_leaves_the_same(client: redis.Redis, seed: int) -> None:
    """Catches any interleaving (redelivery, replay of a prefix, other partitions) that resurrects or loses events."""
    rng = random.Random(seed)
    client.flushall()
    store = HistoryStore(client, length=1_000)
    users = ["a", "b", "c"]
    log: list[HistoryEvent | tuple[str, int]] = []
    for n in range(200):
        timestamp = NOW + 10 * n
        user = rng.choice(users)
        log.append((user, timestamp) if rng.random() < 0.05 else event(user, timestamp, n))
    bounds = dict.fromkeys(users, 0)
    for one in log:
        if isinstance(one, tuple):
            bounds[one[0]] = max(bounds[one[0]], one[1])
    at = 0
    while at < len(log):
        step = log[at : at + rng.randrange(1, 12)]
        if rng.random() < 0.3:  # what was read before is read again, whole or in part, after what came since
            first = rng.randrange(len(log))
            step = log[first : min(at, first + rng.randrange(40))]
        else:
            at += len(step)
        for one in step:
            if isinstance(one, tuple):
                store.erase({one[0]: one[1]})
            else:
                store.append(HistoryBatch.of([one]))
    for user in users:
        wanted = [e.event_time for e in log if isinstance(e, HistoryEvent) and e.user_id == user]
        assert times(store, user) == [timestamp for timestamp in wanted if timestamp > bounds[user]]
