"""`FeatureReader` for asyncio: the same protocol, awaited.

Owns the calls for an event loop. Must not write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import redis
import redis.asyncio
from numpy.typing import NDArray

from freshet import _changed_items
from freshet._async_transport import AsyncClusterServers, AsyncServers, AsyncSingleServer
from freshet._breaker import CircuitBreaker
from freshet._protocol import Question, Questions
from freshet.clock import Clock, wall_clock
from freshet.connect import AsyncClient, connect_async, is_cluster, sentinels
from freshet.layout import Keys
from freshet.local_cache import LocalCache
from freshet.metrics import ReadObserver
from freshet.results import FeatureRead, ItemChanges, ItemsRead, KnowledgeRead, UserRead

T = TypeVar("T")
R = TypeVar("R", bound=ItemsRead)


class AsyncFeatureReader:
    """Reads features from Redis in one event loop. Make one inside it and keep it. All else is as in `FeatureReader`.

    >>> reader = AsyncFeatureReader("redis://features:6379/0")
    >>> found = await reader.read("user-7", candidate_ids)
    """

    def __init__(
        self,
        redis_or_url: AsyncClient | str,
        prefix: str = "f",
        *,
        version: str | None = None,
        default: float = 0.0,
        dims: int = 128,
        timeout_s: float = 0.1,
        raise_errors: bool = False,
        breaker: Callable[[], CircuitBreaker] = CircuitBreaker,
        cache: LocalCache | None = None,
        observer: ReadObserver | None = None,
        clock: Clock = wall_clock,
    ) -> None:
        self._own = isinstance(redis_or_url, str)
        # A connection may take longer than one request waits: it goes on in a task and serves the next request.
        options = {"socket_timeout": max(1.0, timeout_s), "socket_connect_timeout": max(1.0, timeout_s)}
        self._client: Any = connect_async(redis_or_url, **options) if isinstance(redis_or_url, str) else redis_or_url
        if self._client.get_encoder().decode_responses:
            raise ValueError("the Redis client has decode_responses=True, and features are bytes")
        self._servers = _servers(self._client, breaker)
        self._timeout_s = timeout_s
        self._raise_errors = raise_errors
        self._observer = observer
        self._keys = Keys(prefix, clustered=is_cluster(self._client))
        self._questions = Questions(self._keys, version=version, dims=dims, default=default, clock=clock, cache=cache)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the reader's connections; a client that it was given stays open."""
        await self._servers.aclose()
        if self._own:
            for client in (self._client, *sentinels(self._client)):  # redis-py leaves the sentinels' open
                await client.aclose()

    async def read(
        self, user_id: str, item_ids: Sequence[str], *, out: NDArray[np.float32] | None = None
    ) -> FeatureRead:
        """The user and N items in one round trip; see `FeatureReader.read`."""
        started = time.monotonic()
        return self._observed(await self._answer(self._questions.read(user_id, item_ids, out)), started)

    async def items(self, item_ids: Sequence[str], *, out: NDArray[np.float32] | None = None) -> ItemsRead:
        """Any number N of items, 2,000 per round trip."""
        started = time.monotonic()
        return self._observed(await self._answer(self._questions.items(item_ids, out), each=True), started)

    async def users(self, user_ids: Sequence[str]) -> list[UserRead]:
        """Any number of users in the order of `user_ids`, all of one version, 2,000 per round trip."""
        users, errors = await self._answer(self._questions.users(user_ids), each=True)
        self._raise(errors)
        return users

    async def knowledge(self, item_id: str) -> KnowledgeRead | None:
        """What is known about one item, or None; raises redis-py's error if the server does not answer."""
        found, errors = await self._answer(self._questions.knowledge(item_id))
        for error in errors:
            raise error
        return found

    async def changed_items(self, since_ms: int = 0) -> ItemChanges:
        """Ids of the items written or deleted at or after `since_ms`; see `FeatureReader.changed_items`."""
        version, errors = await self._answer(self._questions.version())
        for error in errors:
            raise error
        answers = await _changed_items.ask(self._client, self._keys, version, since_ms).execute()
        return _changed_items.changes(self._keys, version, since_ms, answers)

    async def _answer(self, question: Question[T], *, each: bool = False) -> T:
        deadline = time.monotonic() + self._timeout_s
        try:
            parts = next(question)
            while True:
                replies = await self._servers.exchange(parts, deadline)
                parts = question.send(replies)
                if each:
                    deadline = time.monotonic() + self._timeout_s
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _observed(self, found: R, started: float) -> R:
        if self._observer is not None:
            self._observer(found, time.monotonic() - started)
        self._raise(found.errors)
        return found

    def _raise(self, errors: Sequence[redis.RedisError]) -> None:
        if errors and self._raise_errors:
            raise errors[0]


def _servers(client: AsyncClient, breaker: Callable[[], CircuitBreaker]) -> AsyncServers:
    if isinstance(client, redis.asyncio.Redis):
        return AsyncSingleServer(client.connection_pool, breaker())
    return AsyncClusterServers(client, breaker)
