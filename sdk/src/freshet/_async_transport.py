"""Round trips with a hard deadline, to one server or to the nodes of a Cluster, for asyncio.

Follows the rules of `_transport.py`. Must not know what is asked.
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
    """The server or servers that answer the parts of a round trip."""

    async def exchange(self, parts: Sequence[Part], deadline: float) -> list[Reply]:
        """One reply per part by `deadline` on the monotonic clock; a late one is a `redis.TimeoutError`."""
        ...

    async def aclose(self) -> None:
        """Close all connections that are not in use."""
        ...


class AsyncServer:
    """One server: its idle connections, newest first, and its breaker."""

    def __init__(self, connection_class: type[Any], kwargs: dict[str, Any], breaker: CircuitBreaker) -> None:
        # No time-outs of redis-py: they would wrap each write in a task, and `_by` has the deadline anyway.
        own = {"socket_timeout": None, "socket_read_size": READ_SIZE, "retry": Retry(NoBackoff(), 0)}
        self._make: Callable[[], Any] = lambda: connection_class(**{**kwargs, **own})
        self._idle: deque[Any] = deque()
        self._connecting: set[asyncio.Task[Any]] = set()
        self._breaker = breaker

    async def ask(self, requests: Sequence[bytes], deadline: float) -> list[Reply]:
        """One reply per request, or the same error for all if the connection broke or time ran out."""
        if not self._breaker.allow():
            return [CircuitOpen("the server has just failed several times and was not asked")] * len(requests)
        reused = bool(self._idle)
        try:
            try:
                replies = await self._by(deadline, requests)
            except redis.ConnectionError:
                if not reused or time.monotonic() >= deadline:
                    raise
                await self._drop_idle()  # the server closed one idle connection, so probably all
                replies = await self._by(deadline, requests)
        except redis.RedisError as error:
            if passing(error):
                self._breaker.failed()
            return [error] * len(requests)
        self._breaker.succeeded()
        return replies

    async def aclose(self) -> None:
        """Close the idle connections, and cancel those that are being made."""
        connecting = list(self._connecting)
        for task in connecting:
            task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)  # each closes the socket that it has opened
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
        """A new connection; if it comes too late for this caller, it serves the next one."""
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
                except redis.ResponseError as error:  # this is a reply too, so the connection stays usable
                    replies.append(error)
        except BaseException:  # cancelled or broken: the next user would read the replies of this one
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        return replies


class AsyncSingleServer:
    """One server, or the primary that Sentinel names; see `AsyncServers`."""

    def __init__(self, pool: redis.asyncio.ConnectionPool, breaker: CircuitBreaker) -> None:
        self._server = AsyncServer(pool.connection_class, pool.connection_kwargs, breaker)

    async def exchange(self, parts: Sequence[Part], deadline: float) -> list[Reply]:
        """See `AsyncServers`."""
        return checked(await self._server.ask([part.request for part in parts], deadline))

    async def aclose(self) -> None:
        """See `AsyncServers`."""
        await self._server.aclose()


class AsyncClusterServers:
    """The nodes of a Cluster; when one fails, a task reads the slot map again. See `AsyncServers`."""

    def __init__(self, cluster: RedisCluster, breaker: Callable[[], CircuitBreaker]) -> None:
        self._cluster, self._breaker = cluster, breaker
        self._servers: dict[str, AsyncServer] = {}
        self._refresh: asyncio.Task[None] | None = None
        self._refreshed_at = 0.0

    async def exchange(self, parts: Sequence[Part], deadline: float) -> list[Reply]:
        """See `AsyncServers`."""
        if not self._cluster.nodes_manager.slots_cache:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._cluster.initialize()
            except TimeoutError:
                return [redis.TimeoutError("the cluster did not return its slot map by the deadline")] * len(parts)
            except redis.RedisError as error:
                return checked([error] * len(parts))
            except exceptions.RedisClusterException as error:
                return [redis.ConnectionError(str(error))] * len(parts)
        replies = await self._ask(parts, deadline)
        moved = {index: reply for index, reply in enumerate(replies) if isinstance(reply, exceptions.MovedError)}
        if moved:
            for move in moved.values():
                await self._cluster.nodes_manager.move_slot(move)
            again = await self._ask([parts[index] for index in moved], deadline)
            for index, reply in zip(moved, again, strict=True):
                replies[index] = reply
        if any(isinstance(reply, redis.RedisError) for reply in replies):
            self._refresh_map()
        return checked(replies)

    async def aclose(self) -> None:
        """See `AsyncServers`."""
        if self._refresh is not None:
            await asyncio.wait([self._refresh])
        for server in self._servers.values():
            await server.aclose()

    async def _ask(self, parts: Sequence[Part], deadline: float) -> list[Reply]:
        replies: list[Reply] = [redis.TimeoutError("not asked")] * len(parts)
        groups: dict[str, list[int]] = {}
        for index, part in enumerate(parts):
            try:
                groups.setdefault(self._name(part.slot), []).append(index)
            except exceptions.SlotNotCoveredError as error:
                replies[index] = redis.ConnectionError(str(error))
        calls: list[Awaitable[list[Reply]]] = [
            self._servers[name].ask([parts[index].request for index in indices], deadline)
            for name, indices in groups.items()
        ]
        for indices, answers in zip(groups.values(), await asyncio.gather(*calls), strict=True):
            for index, answer in zip(indices, answers, strict=True):
                replies[index] = answer
        return replies

    def _name(self, slot: int) -> str:
        node = self._cluster.nodes_manager.get_node_from_slot(slot)
        name = str(node.name)
        if name not in self._servers:
            self._servers[name] = AsyncServer(node.connection_class, node.connection_kwargs, self._breaker())
        return name

    def _refresh_map(self) -> None:
        if time.monotonic() < self._refreshed_at + MAP_REFRESH_S or (self._refresh and not self._refresh.done()):
            return

        async def refresh() -> None:
            try:
                await self._cluster.nodes_manager.initialize()
            except (redis.RedisError, exceptions.RedisClusterException) as error:
                log.warning("the cluster does not return its slot map: %s", error)
            finally:
                self._refreshed_at = time.monotonic()

        self._refresh = asyncio.create_task(refresh())
