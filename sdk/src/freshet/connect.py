"""Redis URLs: one server, Sentinel, Cluster, with or without TLS, for threads and for asyncio.

Owns the URL schemes. Must not send a command, except that a client of a Cluster asks for the map of its slots.

    redis://[user:password@]host:port/db             rediss:// with TLS, unix:///path/to/socket
    redis+sentinel://[user:password@]host:port[,host:port]/service[/db]
    redis+cluster://[user:password@]host:port[,host:port]

`rediss+sentinel` and `rediss+cluster` use TLS. Options follow as `?name=value`, by redis-py's names: `ssl_ca_certs`,
`ssl_certfile`, `ssl_keyfile`, `ssl_check_hostname`, `socket_timeout`, `client_name`, and `sentinel_username` and
`sentinel_password` where the sentinels have their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.connection
import redis.sentinel

from freshet.layout import Keys

Client = redis.Redis | redis.cluster.RedisCluster
AsyncClient = redis.asyncio.Redis | redis.asyncio.cluster.RedisCluster

_redis: Any = redis  # parts of redis-py have no types
_SENTINEL_PORT, _REDIS_PORT = 26_379, 6_379


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a URL: `kind` is server, sentinel or cluster; `options` are redis-py's, credentials included."""

    kind: str
    hosts: tuple[tuple[str, int], ...]
    service: str
    options: dict[str, Any]


def parse(url: str) -> Address:
    """The parts of a URL; raises ValueError for an invalid one, with a message that never holds the password."""
    scheme, _, kind = url.partition("://")[0].partition("+")
    if kind not in ("", "sentinel", "cluster") or scheme not in ("redis", "rediss", "unix"):
        raise ValueError("wanted redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")
    if not kind:
        return Address("server", (), "", {})
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    service, _, db = parts.path.strip("/").partition("/")
    single = urlunsplit((scheme, f"{credentials}@host" if credentials else "host", db, parts.query, ""))
    options = _redis.connection.parse_url(single)
    del options["host"]
    options.pop("connection_class", None)
    if scheme == "rediss":
        options["ssl"] = True
    port = _SENTINEL_PORT if kind == "sentinel" else _REDIS_PORT
    if not hosts or (kind == "sentinel" and not service):
        raise ValueError(
            f"a {kind} URL has {'no service' if hosts else 'no host'}, wanted redis+{kind}://host:port/..."
        )
    return Address(kind, tuple(_host(each, port) for each in hosts.split(",")), service, options)


def connect(url: str, **options: Any) -> Client:
    """A client for threads; `options` are redis-py's, and those in the URL take precedence.

    A client of a Cluster connects at once to read the map of its slots; the others connect when first used.
    """
    address = parse(url)
    if address.kind == "server":
        return redis.Redis.from_url(url, **options)
    options |= address.options
    if address.kind == "cluster":
        nodes = [_redis.cluster.ClusterNode(host, port) for host, port in address.hosts]
        # Without full coverage: a node that is down must not take the answers of the other nodes with it.
        return redis.cluster.RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)
    sentinel = _redis.sentinel.Sentinel(address.hosts, sentinel_kwargs=_sentinel_options(options), **options)
    return cast(redis.Redis, sentinel.master_for(address.service))


def connect_async(url: str, **options: Any) -> AsyncClient:
    """As `connect`, for asyncio; every client connects when first used."""
    address = parse(url)
    if address.kind == "server":
        return redis.asyncio.Redis.from_url(url, **options)
    options |= address.options
    if address.kind == "cluster":
        nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in address.hosts]
        return redis.asyncio.cluster.RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)
    sentinel = _redis.asyncio.sentinel.Sentinel(address.hosts, sentinel_kwargs=_sentinel_options(options), **options)
    return cast(redis.asyncio.Redis, sentinel.master_for(address.service))


def sentinels(client: Any) -> list[Any]:
    """The clients that a Sentinel client asks for the primary; closing that client leaves them open."""
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    return [] if manager is None else list(manager.sentinels)


def is_cluster(client: Any) -> bool:
    """Whether a redis-py client is one of a Cluster."""
    return isinstance(client, redis.cluster.RedisCluster | redis.asyncio.cluster.RedisCluster)


def keys_for(client: Any, prefix: str = "f") -> Keys:
    """The keys under `prefix`, with hash tags if this is a client of a Cluster."""
    return Keys(prefix, clustered=is_cluster(client))


def _host(text: str, port: int) -> tuple[str, int]:
    host, colon, digits = text.rpartition(":")
    if not colon or (digits.endswith("]") and text.startswith("[")):
        return text.strip("[]"), port
    try:
        return host.strip("[]"), int(digits)
    except ValueError:
        raise ValueError(f"{text!r} is not a host:port") from None


def _sentinel_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of the sentinels themselves; takes their own credentials out of `options`."""
    own = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    # TLS and time-outs hold for both, but a sentinel has no databases and its own users.
    shared = {name: value for name, value in options.items() if name not in ("username", "password", "db")}
    return shared | {name: value for name, value in own.items() if value is not None}
