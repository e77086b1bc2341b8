"""Round trips with a hard deadline, to one server or to the nodes of a Cluster, for threads.

Owns the deadline, the one retry and what counts as an outage. `async_servers.py` is its twin for asyncio. Must not know
what is asked.

An outage is an answer here: a part whose server did not answer in time has an error as its reply. Only what no waiting
mends is raised: wrong credentials, missing rights, a key of another type.
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
"""Least seconds between two looks at the map of a Cluster after a node failed."""

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
    """Who answers."""

    def exchange(self, parts: Sequence[Part], deadline: float) -> list[Reply]:
        """The replies of all parts by `deadline` on the monotonic clock; what comes later is a `redis.TimeoutError`."""
        ...

    def close(self) -> None:
        """Close every connection that is not in use."""
        ...


class CircuitOpen(redis.ConnectionError):
    """The server failed lately and was not asked."""


def passing(error: BaseException) -> bool:
    """Whether waiting may mend an error: then it is a missing reply, and no mistake of the caller's."""
    return isinstance(error, _PASSING) and not isinstance(error, _REFUSED)


def checked(replies: list[Reply]) -> list[Reply]:
    """`replies`, if no error among them is a mistake; raises the first that is."""
    for reply in replies:
        if isinstance(reply, redis.RedisError) and not passing(reply):
            raise reply
    return replies


class SingleServer:
    """One server, or the primary that Sentinel names."""

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
    """The nodes of a Cluster; one that fails has the map looked at again, beside the reader."""

    def __init__(self, connect: Callable[[], RedisCluster], breaker: Callable[[], CircuitBreaker]) -> None:
        self._connect, self._breaker = connect, breaker
        self._cluster: RedisCluster | None = None
        self._servers: dict[str, Server] = {}
        self._looking = threading.Lock()
        self._looked_at = 0.0

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
        moved = {place: reply for place, reply in enumerate(replies) if isinstance(reply, exceptions.MovedError)}
        if moved:
            for move in moved.values():
                self._cluster.nodes_manager.move_slot(move)
            again = self._ask(self._cluster, [parts[place] for place in moved], deadline)
            for place, reply in zip(moved, again, strict=True):
                replies[place] = reply
        if any(isinstance(reply, redis.RedisError) for reply in replies):
            self._look_again(self._cluster)
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
        for place, part in enumerate(parts):
            try:
                groups.setdefault(self._name(cluster, part.slot), []).append(place)
            except exceptions.SlotNotCoveredError as error:
                uncovered[place] = redis.ConnectionError(str(error))
        calls = [
            _Call(self._servers[name], places, [parts[place].request for place in places])
            for name, places in groups.items()
        ]
        replies = _exchange(calls, len(parts), deadline)
        for place, reply in uncovered.items():
            replies[place] = reply
        return replies

    def _name(self, cluster: RedisCluster, slot: int) -> str:
        node = cluster.nodes_manager.get_node_from_slot(slot)
        name = str(node.name)
        if name not in self._servers:
            pool = cluster.get_redis_connection(node).connection_pool
            self._servers.setdefault(name, Server(connection_factory(pool), self._breaker()))
        return name

    def _look_again(self, cluster: RedisCluster) -> None:
        if time.monotonic() < self._looked_at + MAP_REFRESH_S or not self._looking.acquire(blocking=False):
            return

        def look() -> None:
            try:
                cluster.nodes_manager.initialize()
            except (redis.RedisError, exceptions.RedisClusterException) as error:
                log.warning("the cluster does not tell its map: %s", error)
            finally:
                self._looked_at = time.monotonic()
                self._looking.release()

        threading.Thread(target=look, name="freshet-cluster-map", daemon=True).start()


class _Call:
    """What one server is asked in one round trip, on a connection of its own."""

    def __init__(self, server: Server, places: Sequence[int], requests: list[bytes]) -> None:
        self.places = places
        self.error: redis.RedisError | None = None
        self._server, self._requests = server, requests
        self._connection: Any = None
        self._reused = False

    def send(self, deadline: float, *, fresh: bool = False) -> None:
        """Connect and send; what fails is remembered for `receive`."""
        self.error = None
        if not self._server.breaker.allow():
            self.error = CircuitOpen("the server failed lately and was not asked")
            return
        try:
            self._connection, self._reused = self._server.acquire(deadline, fresh=fresh)
            self._connection.send_packed_command(self._requests, check_health=False)
        except redis.RedisError as error:
            self._fail(error)

    def receive(self, deadline: float) -> list[Reply]:
        """One reply a request; one error for all of them where the connection broke or time ran out."""
        connection, replies = self._connection, list[Reply]()
        if connection is not None:
            connection._parser.deadline = deadline
        while connection is not None and self.error is None and len(replies) < len(self._requests):
            try:
                replies.append(connection.read_response(disable_decoding=True, disconnect_on_error=True))
            except redis.ResponseError as error:  # a reply too: the connection goes on
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
        """Whether it failed for want of a connection that had served before: a new one may do."""
        return self._reused and isinstance(self.error, redis.ConnectionError)

    def abandon(self) -> None:
        """Close the connection of a call whose reply nobody waits for."""
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def _fail(self, error: redis.RedisError) -> None:
        self.abandon()
        self.error = error
        if passing(error):
            self._server.breaker.failed()


def _exchange(calls: Sequence[_Call], n: int, deadline: float) -> list[Reply]:
    """Send all, then wait for all: servers work side by side. A connection that has gone stale is replaced once."""
    replies: list[Reply] = [redis.TimeoutError("not asked")] * n
    try:
        for call in calls:
            call.send(deadline)
        for call in calls:
            answers = call.receive(deadline)
            if call.stale() and time.monotonic() < deadline:
                call.send(deadline, fresh=True)
                answers = call.receive(deadline)
            for place, answer in zip(call.places, answers, strict=True):
                replies[place] = answer
    except BaseException:
        for call in calls:
            call.abandon()
        raise
    return replies
