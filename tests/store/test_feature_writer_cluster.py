"""What only a Cluster can do to a writer: lose a node, lack a function on one, check a shape across slots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from freshet.connect import connect
from freshet.layout import Keys
from freshet.records import ItemKnowledge
from store.feature_writer import FeatureWriter, ShapeMismatch, WriteResult
from store.knowledge_cache import KnowledgeCache
from store.token_budget import TokenBudget
from tests.support.fakes import NOW_MS
from tests.support.samples import item, user
from tests.support.topologies import Cluster

KEYS = Keys(clustered=True)
MANY = [item(f"i{n}") for n in range(200)]

pytestmark = pytest.mark.valkey


@pytest.fixture
def client(valkey_cluster: Cluster) -> Iterator[Any]:
    with connect(valkey_cluster.url) as connected:
        yield connected


def stored(client: Any) -> int:
    """How many of MANY are there."""
    return sum(client.exists(KEYS.item("v1", one.item_id)) for one in MANY)


def test_every_node_gets_the_function_and_its_share(client: Any, valkey_cluster: Cluster) -> None:
    """Catches a library loaded on one node alone, and answers SAME for what a second try wrote."""
    assert set(FeatureWriter(client).put_items(MANY)) == {WriteResult.WRITTEN}
    for node in valkey_cluster.nodes:
        with node.client() as own:
            assert own.dbsize() > len(MANY) / 6
    assert set(FeatureWriter(client).put_items(MANY)) == {WriteResult.SAME}


def test_calls_go_straight_to_their_node(client: Any, valkey_cluster: Cluster) -> None:
    """Catches redis-py asking a server for the keys of each call, with all its arguments, before it makes the call."""
    writer = FeatureWriter(client)
    writer.put_items(MANY)
    for node in valkey_cluster.nodes:
        with node.client() as own:
            own.config_resetstat()
    writer.put_items(MANY)
    for node in valkey_cluster.nodes:
        with node.client() as own:
            assert set(own.info("commandstats")) & {"cmdstat_fcall", "cmdstat_command|getkeys"} == {"cmdstat_fcall"}


def test_a_node_that_comes_back_empty_is_filled_again(client: Any, valkey_cluster: Cluster, monkeypatch: Any) -> None:
    """Catches a worker that must be restarted with a node, and readers that no longer know a version's shape."""
    writer = FeatureWriter(client)
    writer.put_items(MANY)
    node = valkey_cluster.node_of(KEYS.shape("v1"))
    node.kill()
    with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
        writer.put_items([item(one.item_id, event_time=NOW_MS + 1) for one in MANY])
    node.restart()
    valkey_cluster.wait_up()
    monkeypatch.setattr("store.feature_writer.SHAPE_MEMORY_S", -1.0)
    results = writer.put_items([item(one.item_id, event_time=NOW_MS + 1) for one in MANY])
    assert WriteResult.OLDER not in results
    assert stored(client) == len(MANY)
    assert client.get(KEYS.shape("v1")) == b"8 float16"
    with node.client() as own:
        assert own.dbsize() > len(MANY) / 6


def test_what_other_nodes_hold_is_written_while_one_is_dead(client: Any, valkey_cluster: Cluster) -> None:
    """Catches a node's death that stops the writes to all others for as long as it lasts."""
    writer = FeatureWriter(client)
    writer.put_items(MANY[:1])
    node = valkey_cluster.nodes[1]
    lost = [one for one in MANY if valkey_cluster.node_of(KEYS.item("v1", one.item_id)) is node]
    node.kill()
    with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
        writer.put_items(MANY)
    rest = [one for one in MANY if one not in lost]
    assert set(writer.put_items(rest)) <= {WriteResult.WRITTEN, WriteResult.SAME}
    assert all(client.exists(KEYS.item("v1", one.item_id)) for one in rest)


def test_one_shape_holds_across_all_buckets(client: Any) -> None:
    """Catches two models that fill one version because their first items are in different slots."""
    first, other = item("a"), next(one for one in MANY if KEYS.bucket(one.item_id) != KEYS.bucket("a"))
    FeatureWriter(client).put_items([first])
    assert client.get(KEYS.shape("v1")) == b"8 float16"
    with pytest.raises(ShapeMismatch, match="the version has 8 float16, a vector has 16 float16"):
        FeatureWriter(client).put_items([item(other.item_id, dims=16)])
    with pytest.raises(ShapeMismatch, match="the version has 8 float16, a vector has 8 int8"):
        FeatureWriter(client, dtype="int8").put_users([user(other.item_id)])
    with pytest.raises(ShapeMismatch, match="8 float16"):
        FeatureWriter(client).put_items([item("a", version="v2"), item(other.item_id, version="v2", dims=16)])
    assert stored(client) == 0
    assert client.get(KEYS.shape("v2")) is None


def test_cache_and_budget_work_on_a_cluster(client: Any) -> None:
    """Catches a worker's own state whose keys are of different slots."""
    known = ItemKnowledge("i1", NOW_MS, NOW_MS, "f00", "Tea.", content_fingerprint="c00", version="v1")
    cache = KnowledgeCache(client)
    cache.put([known], {"i1": "s00"})
    found = cache.find("v1", "c00", "f01", "s00")
    assert found is not None
    assert found.knowledge == known
    budget = TokenBudget(client, limit=100)
    reservation = budget.reserve(60)
    assert reservation.admitted
    assert not budget.reserve(60).admitted
    assert budget.settle(reservation, 10).spent == 10
