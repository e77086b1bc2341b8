"""Readers against Redis as companies run it: a Cluster that loses a node, Sentinel that promotes, TLS."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from freshet import CircuitBreaker, FeatureReader
from freshet.connect import connect
from store.feature_writer import FeatureWriter
from store.versions import Versions
from tests.support.samples import item, user
from tests.support.topologies import Cluster, SentinelPair, TlsServer
from tests.support.worlds import Blocking, World

READERS = pytest.mark.parametrize("make", [FeatureReader, Blocking], ids=["threads", "asyncio"])
TIMEOUT_S, SLACK_S = 0.3, 0.3
IDS = [f"i{n}" for n in range(300)]


def until(ask: Callable[[], Any], done: Callable[[Any], bool], timeout_s: float = 20.0) -> Any:
    """The first answer that is as wanted."""
    deadline = time.monotonic() + timeout_s
    while not done(found := ask()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)
    return found


@READERS
def test_one_dead_node_costs_its_rows_and_no_exception(make: Any, valkey_cluster: Cluster) -> None:
    """Catches a ranker that loses all candidates, its head or its time budget with a third of the data."""
    world = World(valkey_cluster.url, is_async=make is Blocking)
    world.versions.activate("v1")
    world.writer.put_items([item(one, float(n)) for n, one in enumerate(IDS)])
    world.writer.put_users([user("u", 0.5)])
    reader = world.reader(timeout_s=TIMEOUT_S, breaker=lambda: CircuitBreaker(100), default=-1.0)
    whole = until(lambda: reader.read("u", IDS), lambda found: not found.partial)
    assert whole.item_matrix[:, 0].tolist() == list(range(300))
    control = valkey_cluster.node_of(world.keys.active())
    for victim in (next(node for node in valkey_cluster.nodes if node is not control), control):
        victim.kill()
        theirs = [valkey_cluster.node_of(world.keys.item("v1", one)) is victim for one in IDS]
        for _ in range(5):
            started = time.monotonic()
            found = reader.read("u", IDS)
            assert time.monotonic() - started < TIMEOUT_S + SLACK_S
            assert found.partial
            assert found.version == "v1"
            assert (~found.answered).tolist() == theirs
            wanted = [-1.0 if gone else float(n) for n, gone in enumerate(theirs)]
            assert found.item_matrix[:, 0].tolist() == wanted
        strict = world.reader(timeout_s=5.0, raise_errors=True)
        with pytest.raises(redis.RedisError):
            strict.read("u", IDS)
        victim.restart()
        valkey_cluster.wait_up()
        world.versions.activate("v1")  # the pointer may have been on the node that came back empty
        back = until(lambda: reader.read("u", IDS), lambda found: not found.partial)
        assert back.present.tolist() == [not gone for gone in theirs]
        world.writer.put_items([item(one, float(n)) for n, one in enumerate(IDS)])
    world.close()


@READERS
def test_buckets_that_move_are_followed(make: Any, valkey_cluster: Cluster) -> None:
    """Catches a reader that keeps the first map of the cluster for ever: MOVED is an answer, not an outage."""
    world = World(valkey_cluster.url, is_async=make is Blocking)
    world.versions.activate("v1")
    world.writer.put_items([item(one, float(n)) for n, one in enumerate(IDS)])
    reader = world.reader()
    assert reader.read("u", IDS).present.all()
    key = world.keys.item("v1", "i0")
    source = valkey_cluster.node_of(key)
    target = next(node for node in valkey_cluster.nodes if node is not source)
    valkey_cluster.move_slot(key_slot(key.encode()), source, target)
    try:
        found = reader.read("u", IDS)
        assert not found.partial
        assert found.item_matrix[:, 0].tolist() == list(range(300))
    finally:
        valkey_cluster.move_slot(key_slot(key.encode()), target, source)
        world.close()


@READERS
def test_a_promoted_replica_is_found(make: Any, valkey_sentinel: SentinelPair) -> None:
    """Catches a reader that sticks to the dead primary, or asks Sentinel once in its life."""
    client: Any = connect(valkey_sentinel.url)
    Versions(client).activate("v1")
    FeatureWriter(client).put_items([item("a", 1.0)])
    client.wait(1, 5_000)
    reader = make(valkey_sentinel.url, timeout_s=TIMEOUT_S, breaker=lambda: CircuitBreaker(3, 0.2))
    assert until(lambda: reader.read("u", ["a"]), lambda found: not found.partial).present[0]
    old = valkey_sentinel.kill_primary()
    started = time.monotonic()
    assert reader.read("u", ["a"]).partial
    assert time.monotonic() - started < TIMEOUT_S + SLACK_S
    valkey_sentinel.wait_promoted(old)
    found = until(lambda: reader.read("u", ["a"]), lambda found: not found.partial)
    assert (found.present[0], found.version) == (True, "v1")
    reader.close()
    client.close()


@READERS
def test_tls_with_the_right_authority_only(make: Any, valkey_tls: TlsServer) -> None:
    """Catches features, and a password, for whoever stands in the middle."""
    url = f"{valkey_tls.url}?ssl_ca_certs={valkey_tls.ca_file}"
    client: Any = connect(url)
    Versions(client).activate("v1")
    FeatureWriter(client).put_items([item(one, float(n)) for n, one in enumerate(IDS)])
    reader = make(url, timeout_s=10.0)
    assert reader.read("u", IDS).item_matrix[:, 0].tolist() == list(range(300))
    reader.close()
    stranger = make(valkey_tls.url, timeout_s=10.0)
    assert stranger.read("u", IDS).partial
    stranger.close()
    client.close()
