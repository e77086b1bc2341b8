"""The servers that tests run on: that a Cluster, a Sentinel's pair and TLS are real, and fail as the real ones do."""

from __future__ import annotations

import pytest
import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from tests.support.topologies import SENTINEL_NAME, Cluster, SentinelPair, TlsServer

NEVER_AGAIN = Retry(NoBackoff(), 0)


def cluster_client(cluster: Cluster) -> RedisCluster:
    nodes = [ClusterNode("127.0.0.1", node.port) for node in cluster.nodes]
    return RedisCluster(startup_nodes=nodes, socket_timeout=5.0, retry=NEVER_AGAIN)


def test_each_node_of_the_cluster_has_a_third_of_the_keys(valkey_cluster: Cluster) -> None:
    """Catches a cluster of one node, whose tests would say nothing about splitting by slot."""
    assert valkey_cluster.url == "redis+cluster://" + ",".join(f"127.0.0.1:{one.port}" for one in valkey_cluster.nodes)
    with cluster_client(valkey_cluster) as client:
        for number in range(300):
            client.set(f"k{number}", number)
    held = []
    for node in valkey_cluster.nodes:
        with node.client() as client:
            held.append(client.dbsize())
    assert sum(held) == 300
    assert min(held) > 50


def test_a_killed_node_costs_its_third_alone_and_comes_back(valkey_cluster: Cluster) -> None:
    """Catches a cluster that goes down as a whole, where a reader could not answer in part."""
    names = {valkey_cluster.node_of(f"k{number}"): f"k{number}" for number in range(50)}
    assert len(names) == 3
    victim = valkey_cluster.nodes[1]
    with cluster_client(valkey_cluster) as client:
        for key in names.values():
            client.set(key, 1)
        victim.kill()
        for node, key in names.items():
            if node is victim:
                with pytest.raises(redis.RedisError):
                    client.get(key)
            else:
                assert client.get(key) == b"1"
                assert client.set(key, 2)
        victim.restart()
        valkey_cluster.wait_up()
    with cluster_client(valkey_cluster) as client:
        assert client.get(names[victim]) is None  # it holds nothing any more, and serves
        assert client.set(names[victim], 3)


@pytest.mark.parametrize("time", [1, 2])
def test_every_test_gets_a_whole_and_empty_cluster(valkey_cluster: Cluster, time: int) -> None:
    """Catches a dead node, or keys, that one test leaves to the next."""
    with cluster_client(valkey_cluster) as client:
        assert client.dbsize(target_nodes=RedisCluster.ALL_NODES) == 0
        assert all(client.set(f"k{number}", time) for number in range(50))
    valkey_cluster.nodes[time].kill()


def test_sentinel_hands_over_when_told_and_when_the_primary_dies(valkey_sentinel: SentinelPair) -> None:
    """Catches a pair whose replica never follows or is never promoted."""
    address, _, name = valkey_sentinel.url.removeprefix("redis+sentinel://").partition("/")
    host, _, port = address.partition(":")
    assert name == SENTINEL_NAME
    sentinel = Sentinel([(host, int(port))], socket_timeout=5.0)
    first = valkey_sentinel.primary
    with first.client() as client:
        client.set("k", "before")
        client.wait(1, 5_000)
    valkey_sentinel.failover()
    second = valkey_sentinel.primary
    assert (second is first, valkey_sentinel.replica is first) == (False, True)
    with sentinel.master_for(name, socket_timeout=5.0) as client:
        assert client.get("k") == b"before"
        client.set("k", "between")
        client.wait(1, 5_000)
    assert valkey_sentinel.kill_primary() is second
    valkey_sentinel.wait_promoted(second)
    with sentinel.master_for(name, socket_timeout=5.0) as client:
        assert client.get("k") == b"between"
        assert client.set("k", "after")
    for one in sentinel.sentinels:
        one.close()


def test_tls_is_real_and_wants_its_authority(valkey_tls: TlsServer) -> None:
    """Catches a reader's TLS tested against a server that would take anybody."""
    with redis.Redis.from_url(f"{valkey_tls.url}?ssl_ca_certs={valkey_tls.ca_file}", retry=NEVER_AGAIN) as client:
        assert client.set("k", b"v" * 1_000_000)
        assert client.get("k") == b"v" * 1_000_000
    with (
        redis.Redis.from_url(valkey_tls.url, retry=NEVER_AGAIN) as stranger,
        pytest.raises(redis.ConnectionError, match="certificate"),
    ):
        stranger.ping()
    plain = valkey_tls.url.replace("rediss://", "redis://")
    with redis.Redis.from_url(plain, retry=NEVER_AGAIN, socket_timeout=5.0) as client, pytest.raises(redis.RedisError):
        client.ping()
