"""Redis URLs: which server they mean, and what is said of one that means none."""

from __future__ import annotations

from typing import Any

import pytest
import redis
import redis.asyncio
from redis.cluster import RedisCluster

from freshet.connect import connect, connect_async, is_cluster, keys_for, parse


def test_a_cluster_url_names_all_its_hosts() -> None:
    """Catches a password that becomes part of a host, and an option that is lost."""
    address = parse("rediss+cluster://ranker:p%40ss@a:7000,b,[::1]:7002?ssl_ca_certs=/ca.pem&socket_timeout=2")
    assert address.kind == "cluster"
    assert address.hosts == (("a", 7000), ("b", 6379), ("::1", 7002))
    wanted = {"username": "ranker", "password": "p@ss", "ssl": True, "ssl_ca_certs": "/ca.pem", "socket_timeout": 2.0}
    assert wanted.items() <= address.options.items()


def test_a_sentinel_url_names_service_and_database() -> None:
    """Catches database 0 for everybody, and the servers' password sent to the sentinels."""
    url = "redis+sentinel://:secret@s1:26379,s2/features/3?sentinel_password=other"
    address = parse(url)
    assert (address.hosts, address.service) == ((("s1", 26379), ("s2", 26379)), "features")
    assert (address.options["db"], address.options["password"]) == (3, "secret")
    client: Any = connect(url)
    kwargs = client.connection_pool.connection_kwargs
    assert (kwargs["db"], kwargs["password"], "sentinel_password" in kwargs) == (3, "secret", False)
    sentinel = client.connection_pool.sentinel_manager.sentinels[0].connection_pool.connection_kwargs
    assert (sentinel["password"], "db" in sentinel and sentinel["db"]) == ("other", 0)
    client.close()


@pytest.mark.parametrize(
    "url",
    ["http://h:1", "redis+cluster://", "redis+sentinel://h:1", "redis+ring://h:1", "redis+cluster://h:port", "h:6379"],
)
def test_no_redis_url_says_so_without_its_password(url: str) -> None:
    """Catches a worker that starts and fails at its first command."""
    with pytest.raises(ValueError, match=r"redis|host") as caught:
        parse(url.replace("//", "//user:hidden@"))
    assert "hidden" not in str(caught.value)


async def test_one_server_is_redis_pys_own_url() -> None:
    """Catches a scheme that redis-py knows and we do not."""
    for url in ("redis://h:1/2", "rediss://h:1", "unix:///tmp/s"):
        assert isinstance(connect(url), redis.Redis)
        assert isinstance(connect_async(url), redis.asyncio.Redis)
    assert connect("redis://h:1/2", socket_timeout=3).connection_pool.connection_kwargs["socket_timeout"] == 3


def test_keys_are_named_as_the_client_stores_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a CROSSSLOT error, and tags on a server that needs none."""
    monkeypatch.setattr(RedisCluster, "__init__", lambda self: None)
    cluster: Any = RedisCluster.__new__(RedisCluster)
    assert is_cluster(cluster)
    assert keys_for(cluster, "p").active() == "p:{c}:active"
    assert keys_for(redis.Redis(), "p").active() == "p:active"
    monkeypatch.setattr(RedisCluster, "__del__", lambda self: None)
