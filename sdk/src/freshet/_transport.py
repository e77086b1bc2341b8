"""Round trips with a hard deadline, to one server or to the nodes of a Cluster, for threads.

Owns the deadline, the one retry and what counts as an outage; `_async_transport.py` does the same for asyncio. Must not
know what is asked.

An outage raises nothing: a part whose server did not answer in time gets an error as its reply. Only errors that
waiting cannot cure are raised: wrong credentials, missing rights, a key of another type.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import redis
from redis import exceptions
from redis.cluster import RedisCluster

from freshet._breaker import CircuitBreaker
from freshet._connections import Server, beside, connection_factory
from freshet._round_trip import Part, Reply

log = logging.getLogger(__name__)

MAP_REFRESH_S = 1.0
"""Minimum seconds between two reads of a Cluster's slot map after a node failed."""

_REFUSED = (exceptions.AuthenticationError, exceptions.AuthorizationError)
_PASSING = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ClusterError,
    exceptions.ClusterDownError,
    exceptions.MasterDownError,
    exceptions.TryAgainError,
    exceptions.AskError,  # MovedError too
)


class Servers(Protocol):
    """The server or servers that answer the parts of a round trip."""

    def exchange(self, parts: Sequence[Part], deadline: float) -> list[Reply]:
        """One reply per part by `deadline` on the monotonic clock; a late one is a `redis.TimeoutError`."""
        ...

    def close(self) -> None:
        """Close all connections that are not in use."""
        ...


class CircuitOpen(redis.ConnectionError):
    """The server has just failed several times, so it was not asked."""


def passing(error: BaseException) -> bool:
    """Whether an error may go away by itself: then it is an outage, and not a mistake of the caller."""
    return isinstance(error, _PASSING) and not isinstance(error, _REFUSED)


def checked(replies: list[Reply]) -> list[Reply]:
    """`replies` unchanged; raises the first error among them that is not `passing`."""
    for reply in replies:
        if isinstance(reply, redis.RedisError) and not passing(reply):
            raise reply
    return replies


class SingleServer:
    """One server, or the primary that Sentinel names; see `Servers`."""

    def __init__(self, pool: redis.ConnectionPool, breaker: CircuitBreaker) -> None:
        self._server = Server(connection_factory(pool), breaker)

    def exchange(self, parts: Sequence[Part], deadline: float) -> list[Reply]:
        """See `Servers`."""
        call = _Call(self._server, range(len(parts)), [part.request for part in parts])
        return checked(_exchange([call], len(parts), deadline))

    def close(self) -> None:
        """See `Servers`."""
        self._server.close()


class ClusterServers:
    """The nodes of a Cluster; when one fails, a thread of its own reads the slot map again. See `Servers`."""

    def __init__(self, connect: Callable[[], RedisCluster], breaker: Callable[[], CircuitBreaker]) -> None:
        self._connect, self._breaker = connect, breaker
        self._cluster: RedisCluster | None = None
        self._servers: dict[str, Server] = {}
        self._refreshing = threading.Lock()
        self._refreshed_at = 0.0

    def exchange(self, parts: Sequence[Part], deadline: float) -> list[Reply]:
        """See `Servers`."""
        if self._cluster is None:
            try:
                self._cluster = beside(self._connect, deadline, self._adopt)
            except redis.RedisError as error:
                return checked([error] * len(parts))
            except exceptions.RedisClusterException as error:
                return [redis.ConnectionError(str(error))] * len(parts)
        replies = self._ask(self._cluster, parts, deadline)
        moved = {index: reply for index, reply in enumerate(replies) if isinstance(reply, exceptions.MovedError)}
        if moved:
            for move in moved.values():
                self._cluster.nodes_manager.move_slot(move)
            again = self._ask(self._cluster, [parts[index] for index in moved], deadline)
            for index, reply in zip(moved, again, strict=True):
                replies[index] = reply
        if any(isinstance(reply, redis.RedisError) for reply in replies):
            self._refresh_map(self._cluster)
        return checked(replies)

    def close(self) -> None:
        """See `Servers`."""
        for server in list(self._servers.values()):
            server.close()
        if self._cluster is not None:
            self._cluster.close()

    def _adopt(self, cluster: RedisCluster) -> None:
        self._cluster = cluster

    def _ask(self, cluster: RedisCluster, parts: Sequence[Part], deadline: float) -> list[Reply]:
        groups: dict[str, list[int]] = {}
        uncovered: dict[int, Reply] = {}
        for index, part in enumerate(parts):
            try:
                groups.setdefault(self._name(cluster, part.slot), []).append(index)
            except exceptions.SlotNotCoveredError as error:
                uncovered[index] = redis.ConnectionError(str(error))
        calls = [
            _Call(self._servers[name], indices, [parts[index].request for index in indices])
            for name, indices in groups.items()
        ]
        replies = _exchange(calls, len(parts), deadline)
        for index, reply in uncovered.items():
            replies[index] = reply
        return replies

    def _name(self, cluster: RedisCluster, slot: int) -> str:
        node = cluster.nodes_manager.get_node_from_slot(slot)
        name = str(node.name)
        if name not in self._servers:
            pool = cluster.get_redis_connection(node).connection_pool
            self._servers.setdefault(name, Server(connection_factory(pool), self._breaker()))
        return name

    def _refresh_map(self, cluster: RedisCluster) -> None:
        if time.monotonic() < self._refreshed_at + MAP_REFRESH_S or not self._refreshing.acquire(blocking=False):
            return

        def refresh() -> None:
            try:
                cluster.nodes_manager.initialize()
            except (redis.RedisError, exceptions.RedisClusterException) as error:
                log.warning("the cluster does not return its slot map: %s", error)
            finally:
                self._refreshed_at = time.monotonic()
                self._refreshing.release()

        threading.Thread(target=refresh, name="freshet-cluster-map", daemon=True).start()


class _Call:
    """The requests to one server in one round trip, on a connection of its own; `indices` are those of the parts."""

    def __init__(self, server: Server, indices: Sequence[int], requests: list[bytes]) -> None:
        self.indices = indices
        self.error: redis.RedisError | None = None
        self._server, self._requests = server, requests
        self._connection: Any = None
        self._reused = False

    def send(self, deadline: float, *, fresh: bool = False) -> None:
        """Connect and send; an error is kept for `receive`."""
        self.error = None
        if not self._server.breaker.allow():
            self.error = CircuitOpen("the server has just failed several times and was not asked")
            return
        try:
            self._connection, self._reused = self._server.acquire(deadline, fresh=fresh)
            self._connection.send_packed_command(self._requests, check_health=False)
        except redis.RedisError as error:
            self._fail(error)

    def receive(self, deadline: float) -> list[Reply]:
        """One reply per request, or the same error for all if the connection broke or time ran out."""
        connection, replies = self._connection, list[Reply]()
        if connection is not None:
            connection._parser.deadline = deadline
        while connection is not None and self.error is None and len(replies) < len(self._requests):
            try:
                replies.append(connection.read_response(disable_decoding=True, disconnect_on_error=True))
            except redis.ResponseError as error:  # this is a reply too, so the connection stays usable
                replies.append(error)
            except redis.RedisError as error:
                self._fail(error)
        if connection is None or self.error is not None:
            return [self.error or redis.ConnectionError("nothing was sent")] * len(self._requests)
        self._connection = None
        self._server.breaker.succeeded()
        self._server.release(connection)
        return list(replies)

    def stale(self) -> bool:
        """Whether it failed on a connection that had been idle: the server may have closed it, a new one may work."""
        return self._reused and isinstance(self.error, redis.ConnectionError)

    def abandon(self) -> None:
        """Close the connection: an unread reply on it would be taken for that of the next request."""
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def _fail(self, error: redis.RedisError) -> None:
        self.abandon()
        self.error = error
        if passing(error):
            self._server.breaker.failed()


def _exchange(calls: Sequence[_Call], n: int, deadline: float) -> list[Reply]:
    """Send all calls, then wait for all, so that the servers work in parallel; a stale connection is replaced once."""
    replies: list[Reply] = [redis.TimeoutError("not asked")] * n
    try:
        for call in calls:
            call.send(deadline)
        for call in calls:
            answers = call.receive(deadline)
            if call.stale() and time.monotonic() < deadline:
                call.send(deadline, fresh=True)
                answers = call.receive(deadline)
            for index, answer in zip(call.indices, answers, strict=True):
                replies[index] = answer
    except BaseException:
        for call in calls:
            call.abandon()
        raise
    return replies
