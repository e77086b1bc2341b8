"""Features for a ranker: one user and all candidates in one round trip, as arrays, never of two versions.

Owns the calls for threads. `_protocol.py` knows what to ask and what a reply means, `_transport.py` how to send it.
Must not write.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import numpy as np
import redis
from numpy.typing import NDArray
from redis.cluster import RedisCluster

from freshet import _changed_items
from freshet._breaker import CircuitBreaker
from freshet._protocol import Question, Questions
from freshet._transport import ClusterServers, Servers, SingleServer
from freshet.clock import Clock, wall_clock
from freshet.connect import Client, connect, is_cluster, parse
from freshet.layout import Keys
from freshet.local_cache import LocalCache
from freshet.metrics import ReadObserver
from freshet.results import FeatureRead, ItemChanges, ItemsRead, KnowledgeRead, UserRead

T = TypeVar("T")
R = TypeVar("R", bound=ItemsRead)


class FeatureReader:
    """Reads features from Redis; thread-safe. Make one and keep it.

    >>> reader = FeatureReader("redis://features:6379/0")
    >>> found = reader.read("user-7", candidate_ids)
    >>> scores = found.item_matrix @ found.user.log_vector
    >>> scores[~found.present] = prior

    `redis_or_url` is a URL (`freshet.connect` lists the schemes: one server, Sentinel, Cluster, TLS), or a redis-py
    client that does not decode responses. The reader connects at the first call. `prefix` is the key prefix that the
    platform writes with.

    Every result is of one version and names it. The pointer to the active version is read in the same round trip as the
    features, so the first call after an activation or a rollback sees it, at the price of one more round trip.
    `version` pins a version instead, active or not. As long as no version is active, everything is absent and the
    version is "".

    A call takes at most `timeout_s`, whatever hangs. Rows that have not arrived by then are absent and flagged in
    `partial`, `answered` and `errors` of the result. A server that failed several times in a row is not asked for a
    while (see `CircuitBreaker`), and results are partial at once. With `raise_errors` the first error is raised
    instead. Wrong credentials, missing rights and keys of another type always raise. `items` and `users` have
    `timeout_s` for each 2,000 ids.

    `cache` returns recently read items from memory (see `LocalCache`), so that Redis is asked only for the user and the
    rest. `observer` is called with every result of `read` and `items`; `ReadMetrics` makes Prometheus series of them.

    `default` fills the rows of absent items. `dims` is the width of the result until the version has its first vector,
    which then decides.

    Raises ValueError for a URL of an unknown scheme, an invalid prefix or version, or a client that decodes responses.
    """

    def __init__(
        self,
        redis_or_url: Client | str,
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
        clustered = parse(redis_or_url).kind == "cluster" if isinstance(redis_or_url, str) else is_cluster(redis_or_url)
        # A connection may take longer than one request waits: it goes on in another thread and serves the next request.
        options = {"socket_timeout": max(1.0, timeout_s), "socket_connect_timeout": max(1.0, timeout_s)}
        self._servers = _servers(redis_or_url, breaker, options)
        self._client_or_url = redis_or_url
        self._own_client: Client | None = None
        self._making = threading.Lock()
        self._timeout_s = timeout_s
        self._raise_errors = raise_errors
        self._observer = observer
        self._keys = Keys(prefix, clustered=clustered)
        self._questions = Questions(self._keys, version=version, dims=dims, default=default, clock=clock, cache=cache)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the reader's connections; a client that it was given stays open."""
        self._servers.close()
        if self._own_client is not None:
            self._own_client.close()

    def read(self, user_id: str, item_ids: Sequence[str], *, out: NDArray[np.float32] | None = None) -> FeatureRead:
        """The user and N items in one round trip.

        If `out` is given, a C-contiguous float32 matrix of (at least N, dims), the vectors are written to it, and
        `item_matrix` is its first N rows. 500 items of 128 dims take about 0.6 ms. Ask for 1,000 items at most: while
        Redis serves a longer list, other readers wait.
        """
        started = time.monotonic()
        return self._observed(self._answer(self._questions.read(user_id, item_ids, out)), started)

    def items(self, item_ids: Sequence[str], *, out: NDArray[np.float32] | None = None) -> ItemsRead:
        """Any number N of items, 2,000 per round trip."""
        started = time.monotonic()
        return self._observed(self._answer(self._questions.items(item_ids, out), each=True), started)

    def users(self, user_ids: Sequence[str]) -> list[UserRead]:
        """Any number of users in the order of `user_ids`, all of one version, 2,000 per round trip."""
        users, errors = self._answer(self._questions.users(user_ids), each=True)
        self._raise(errors)
        return users

    def knowledge(self, item_id: str) -> KnowledgeRead | None:
        """What is known about one item, or None; raises redis-py's error if the server does not answer."""
        found, errors = self._answer(self._questions.knowledge(item_id))
        for error in errors:
            raise error
        return found

    def changed_items(self, since_ms: int = 0) -> ItemChanges:
        """Ids of the items written or deleted at or after `since_ms` of the server's clock; 0 means every live item.

        The bound is inclusive, so that a write in the same millisecond as the last call is not missed. Deletions are
        remembered for the writer's `ttl_s`. If `version` is not that of the last call, start again from 0. Not for the
        hot path: this has no deadline, takes time in proportion to the changes, and raises redis-py's errors.
        """
        version, errors = self._answer(self._questions.version())
        for error in errors:
            raise error
        answers = _changed_items.ask(self._client(), self._keys, version, since_ms).execute()
        return _changed_items.changes(self._keys, version, since_ms, answers)

    def _answer(self, question: Question[T], *, each: bool = False) -> T:
        """Make round trips until the question is answered; `timeout_s` is for all of them, or for `each`."""
        deadline = time.monotonic() + self._timeout_s
        try:
            parts = next(question)
            while True:
                replies = self._servers.exchange(parts, deadline)
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

    def _client(self) -> Client:
        """The client for calls that are not on the hot path."""
        if not isinstance(self._client_or_url, str):
            return self._client_or_url
        with self._making:
            if self._own_client is None:
                self._own_client = connect(self._client_or_url)
            return self._own_client


def _servers(client_or_url: Client | str, breaker: Callable[[], CircuitBreaker], options: dict[str, Any]) -> Servers:
    if isinstance(client_or_url, str):
        url = client_or_url
        if parse(url).kind == "cluster":
            return ClusterServers(lambda: cast(RedisCluster, connect(url, **options)), breaker)
        return SingleServer(cast(redis.Redis, connect(url, **options)).connection_pool, breaker())
    if client_or_url.get_encoder().decode_responses:
        raise ValueError("the Redis client has decode_responses=True, and features are bytes")
    if isinstance(client_or_url, redis.Redis):
        return SingleServer(client_or_url.connection_pool, breaker())
    cluster = client_or_url
    return ClusterServers(lambda: cluster, breaker)
