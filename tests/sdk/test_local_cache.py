"""Items from the ranker's own memory: never older than promised, never of another version, never another item's."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import redis

from freshet import FeatureReader, LocalCache
from store.feature_writer import Deletion, FeatureWriter
from store.versions import Versions
from tests.support.fakes import NOW_MS
from tests.support.samples import DIMS, item, user
from tests.support.worlds import Blocking

READERS = pytest.mark.parametrize("make", [FeatureReader, Blocking], ids=["threads", "asyncio"])


class Seconds:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def client(valkey: str) -> Any:
    with redis.Redis.from_url(valkey) as connected:
        Versions(connected).activate("v1")
        yield connected


def keys_asked(client: Any, ask: Any) -> tuple[Any, int]:
    """The answer, and how many keys the server was asked for."""
    client.config_resetstat()
    found = ask()
    stats = client.info("stats")
    return found, stats["keyspace_hits"] + stats["keyspace_misses"]


@READERS
def test_what_was_read_is_not_asked_for_again(valkey: str, client: Any, make: Any) -> None:
    """Catches a cache that never hits, mixes up rows, or forgets that an item does not exist."""
    FeatureWriter(client).put_items([item(f"i{n}", float(n), tier=1 + n % 2) for n in range(10)])
    FeatureWriter(client).put_users([user("u", 0.5)])
    reader = make(valkey, timeout_s=10.0, default=-1.0, cache=LocalCache(100, 60.0), dims=DIMS)
    plain = make(valkey, timeout_s=10.0, default=-1.0, dims=DIMS)
    reader.read("u", ["i3", "none", "i1"])
    wanted = ["i1", "i7", "none", "i3", "i1"]
    found, asked = keys_asked(client, lambda: reader.read("u", wanted))
    assert asked == 4  # pointer, shape, user, i7
    same = plain.read("u", wanted)
    for name in ("item_matrix", "present", "tier", "answered"):
        assert getattr(found, name).tolist() == getattr(same, name).tolist()
    assert np.allclose(found.age_seconds, same.age_seconds, atol=5)
    assert found.user.log_vector.tolist() == [0.5] * DIMS
    out = np.full((8, DIMS), 7.0, np.float32)
    again, asked = keys_asked(client, lambda: reader.read("u", wanted, out=out))
    assert asked == 3
    assert again.item_matrix.base is out
    assert out[:6, 0].tolist() == [1.0, 7.0, -1.0, 3.0, 1.0, 7.0]
    reader.close()
    plain.close()


@READERS
def test_nothing_is_older_than_promised(valkey: str, client: Any, make: Any) -> None:
    """Catches an old vector, or a deleted item, that outlives `max_age_s`; reading must not make a row younger."""
    clock = Seconds()
    writer = FeatureWriter(client)
    writer.put_items([item("a", 1.0), item("b", 1.0)])
    reader = make(valkey, timeout_s=10.0, dims=DIMS, cache=LocalCache(100, 1.0, clock))
    reader.read("u", ["a", "b"])
    writer.put_items([item("a", 2.0, event_time=NOW_MS + 1)])
    writer.delete_items("v1", [Deletion("b", NOW_MS + 1)])
    clock.now += 0.9
    assert reader.read("u", ["a", "b"]).item_matrix[:, 0].tolist() == [1.0, 1.0]
    clock.now += 0.2
    found = reader.read("u", ["a", "b"])
    assert found.item_matrix[:, 0].tolist() == [2.0, 0.0]
    assert found.present.tolist() == [True, False]
    reader.close()


@READERS
def test_a_swap_is_seen_at_once_and_widths_with_it(valkey: str, client: Any, make: Any) -> None:
    """Catches cached rows of the version before: the one mix that a cache makes possible."""
    writer = FeatureWriter(client)
    for value, version, dims in ((1.0, "v1", DIMS), (2.0, "v2", 2 * DIMS)):
        writer.put_items([item(one, value, version=version, dims=dims) for one in ("a", "b")])
        writer.put_users([user("u", value, version=version, dims=dims)])
    reader = make(valkey, timeout_s=10.0, dims=DIMS, cache=LocalCache(100, 60.0))
    for version in ("v1", "v2", "v1", "v1", "v2"):
        Versions(client).activate(version)
        for ids in (["a"], ["a", "b"]):
            found = reader.read("u", ids)
            values = {*found.item_matrix.ravel().tolist(), *found.user.log_vector.tolist()}
            assert (found.version, values) == (version, {float(version[1])})
    reader.close()


@READERS
def test_what_is_held_outlives_an_outage(valkey: str, client: Any, make: Any) -> None:
    """Catches an outage that is cached as "no such item", and held rows thrown away when they are worth most."""
    FeatureWriter(client).put_items([item("a", 1.0), item("b", 2.0)])
    reader = make(valkey, timeout_s=0.2, dims=DIMS, cache=LocalCache(100, 60.0))
    reader.read("u", ["a"])
    client.execute_command("CLIENT", "PAUSE", "400", "ALL")
    found = reader.read("u", ["a", "b"])
    assert found.partial
    assert found.present.tolist() == found.answered.tolist() == [True, False]
    client.ping()  # answered when the pause is over
    while (found := reader.read("u", ["a", "b"])).partial:
        pass
    assert found.item_matrix[:, 0].tolist() == [1.0, 2.0]
    reader.close()


def test_the_oldest_makes_room(valkey: str, client: Any) -> None:
    """Catches a slab that grows, and a row under the id that had its place before; also more ids than places."""
    FeatureWriter(client).put_items([item(f"i{n}", float(n)) for n in range(30)])
    cache = LocalCache(8, 60.0)
    with FeatureReader(valkey, timeout_s=10.0, dims=DIMS, cache=cache) as reader:
        for start in range(0, 30, 3):
            wanted = [(start + n) % 30 for n in (0, 1, 2, 28, 0)]
            assert reader.read("u", [f"i{n}" for n in wanted]).item_matrix[:, 0].tolist() == wanted
        everything = [f"i{n}" for n in range(30)]
        for _ in range(2):
            assert reader.read("u", everything).item_matrix[:, 0].tolist() == list(range(30))
    assert len(cache) == 8
    assert cache.hits
    assert cache.misses


def test_threads_share_one_cache_while_versions_swap(valkey: str, client: Any) -> None:
    """Catches a row that another thread overwrites between look-up and copy, or that a swap leaves behind."""
    writer = FeatureWriter(client)
    for value, version in ((0.0, "v1"), (1_000.0, "v2")):
        writer.put_items([item(f"i{n}", value + n, version=version) for n in range(100)])
    wrong: list[Any] = []
    with FeatureReader(valkey, timeout_s=10.0, dims=DIMS, cache=LocalCache(50, 60.0)) as reader:

        def ask(start: int) -> None:
            for turn in range(150):
                wanted = [(start * 31 + turn * 7 + n) % 100 for n in range(20)]
                found = reader.read("u", [f"i{n}" for n in wanted])
                base = {"v1": 0, "v2": 1_000}[found.version]
                if found.item_matrix[:, 0].tolist() != [base + n for n in wanted]:
                    wrong.append((found.version, wanted))

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for turn in range(40):
            Versions(client).activate(f"v{1 + turn % 2}")
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize(("capacity", "age"), [(0, 1.0), (1, 0.0), (1, float("nan"))])
def test_senseless_bounds_are_refused(capacity: int, age: float) -> None:
    """Catches a cache without room, or one whose every row is too old."""
    with pytest.raises(ValueError, match="capacity"):
        LocalCache(capacity, age)
