"""Round trips with a hard deadline, to one server or to the nodes of a Cluster, for asyncio.

The twin of `servers.py`, with the same rules. Must not know what is asked.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import redis.asyncio
from redis import exceptions
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from freshet._breaker import CircuitBreaker
from freshet._connections import READ_SIZE
from freshet._round_trip import Part, Reply
from freshet._transport import MAP_REFRESH_S, CircuitOpen, checked, passing

log = logging.getLogger(__name__)


class AsyncServers(Protocol):
    """Who answers."""

    async def exchange(self, parts: Sequence[Part], deadline: float) -> list[Reply]:
        """The replies of all parts by `deadline` on the monotonic clock; what comes later is a `redis.TimeoutError`."""
        ...

    async def aclose(self) -> None:
        """Close every connection that is not in use."""
        ...


class AsyncServer:
    """One server: its idle connections, newest first, and its breaker."""

    def __init__(self, connection_class: type[Any], kwargs: dict[str, Any], breaker: CircuitBreaker) -> None:
        # Deadlines are ours: redis-py's own would wrap each write in a task.
        own = {"socket_timeout": None, "socket_read_size": READ_SIZE, "retry": Retry(NoBackoff(), 0)}
        self._make: Callable[[], Any] = lambda: connection_class(**{**kwargs, **own})
        self._idle: deque[Any] = deque()
        self._connecting: set[asyncio.Task[Any]] = set()
        self._breaker = breaker

    async def ask(self, requests: Sequence[bytes], deadline: float) -> list[Reply]:
        """One reply a request; one error for all of them where the connection broke or time ran out."""
        if not self._breaker.allow():
            return [CircuitOpen("the server failed lately and was not asked")] * len(requests)
        reused = bool(self._idle)
        try:
            try:
                replies = await self._by(deadline, requests)
            except redis.ConnectionError:
                if not reused or time.monotonic() >= deadline:
                    raise
                await self._drop_idle()  # it has gone stale too
                replies = await self._by(deadline, requests)
        except redis.RedisError as error:
            if passing(error):
                self._breaker.failed()
            return [error] * len(requests)
        self._breaker.succeeded()
        return replies

    async def aclose(self) -> None:
        """Close what is idle, and give up what is being connected."""
        under_way = list(self._connecting)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)  # each closes what it has opened
        await self._drop_idle()

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)

    async def _by(self, deadline: float, requests: Sequence[bytes]) -> list[Reply]:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._ask(requests)
        except TimeoutError:
            raise redis.TimeoutError("no answer by the deadline") from None

    async def _connected(self) -> Any:
        """A new connection; one that comes too late for this caller serves the next one."""
        task = asyncio.create_task(self._connect())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._keep)
            raise

    async def _connect(self) -> Any:
        connection = self._make()
        await connection.connect()
        return connection

    def _keep(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._idle.append(task.result())

    async def _ask(self, requests: Sequence[bytes]) -> list[Reply]:
        connection = self._idle.pop() if self._idle else await self._connected()
        try:
            await connection.send_packed_command(requests, check_health=False)
            replies: list[Reply] = []
            for _ in requests:
                try:
                    replies.append(await connection.read_response(disable_decoding=True, timeout=math.inf))
                except redis.ResponseError as error:  # a reply too: the connection goes on
                    replies.append(error)
        except BaseException:  # cancelled, or broken: whoever took it next would read this one's replies
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        return replies


class AsyncSingleServer:
    """One server, or the primary that Sentinel names."""

    def __init__(self, pool: redis.asyncio.ConnectionPool, breaker: CircuitBreaker) -> None:
        self._server = AsyncServer(pool.connection_class, pool.connection_kwargs, breaker)

    async def exchange(self, parts: Sequence[Part], deadline: float) -> list[Reply]:
        """See `AsyncServers`."""
        return checked(await self._server.ask([part.request for part in parts], deadline))

    async def aclose(self) -> None:
        """See `AsyncServers`."""
        await self._server.aclose()


class AsyncClusterServers:
    """The nodes of a Cluster; one that fails has the map looked at again, beside the reader."""

    def __init__(self, cluster: RedisCluster, breaker: Callable[[], CircuitBreaker]) -> None:
        self._cluster, self._breaker = cluster, breaker
        self._servers: dict[str, AsyncServer] = {}
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = 0.0

    async def exchange(self, parts: Sequence[Part], deadline: float) -> list[Reply]:
        """See `AsyncServers`."""
        if not self._cluster.nodes_manager.slots_cache:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._cluster.initialize()
            except TimeoutError:
                return [redis.TimeoutError("the cluster does not tell its map by the deadline")] * len(parts)
            except redis.RedisError as error:
                return checked([error] * len(parts))
            except exceptions.RedisClusterException as error:
                return [redis.ConnectionError(str(error))] * len(parts)
        replies = await self._ask(parts, deadline)
        moved = {place: reply for place, reply in enumerate(replies) if isinstance(reply, exceptions.MovedError)}
        if moved:
            for move in moved.values():
                await self._cluster.nodes_manager.move_slot(move)
            again = await self._ask([parts[place] for place in moved], deadline)
            for place, reply in zip(moved, again, strict=True):
                replies[place] = reply
        if any(isinstance(reply, redis.RedisError) for reply in replies):
            self._look_again()
        return checked(replies)

    async def aclose(self) -> None:
        """See `AsyncServers`."""
        if self._looking is not None:
            await asyncio.wait([self._looking])
        for server in self._servers.values():
            await server.aclose()

    async def _ask(self, parts: Sequence[Part], deadline: float) -> list[Reply]:
        replies: list[Reply] = [redis.TimeoutError("not asked")] * len(parts)
        groups: dict[str, list[int]] = {}
        for place, part in enumerate(parts):
            try:
                groups.setdefault(self._name(part.slot), []).append(place)
            except exceptions.SlotNotCoveredError as error:
                replies[place] = redis.ConnectionError(str(error))
        calls: list[Awaitable[list[Reply]]] = [
            self._servers[name].ask([parts[place].request for place in places], deadline)
            for name, places in groups.items()
        ]
        for places, answers in zip(groups.values(), await asyncio.gather(*calls), strict=True):
            for place, answer in zip(places, answers, strict=True):
                replies[place] = answer
        return replies

    def _name(self, slot: int) -> str:
        node = self._cluster.nodes_manager.get_node_from_slot(slot)
        name = str(node.name)
        if name not in self._servers:
            self._servers[name] = AsyncServer(node.connection_class, node.connection_kwargs, self._breaker())
        return name

    def _look_again(self) -> None:
        if time.monotonic() < self._looked_at + MAP_REFRESH_S or (self._looking and not self._looking.done()):
            return

        async def look() -> None:
            try:
                await self._cluster.nodes_manager.initialize()
            except (redis.RedisError, exceptions.RedisClusterException) as error:
                log.warning("the cluster does not tell its map: %s", error)
            finally:
                self._looked_at = time.monotonic()

        self._looking = asyncio.create_task(look())
