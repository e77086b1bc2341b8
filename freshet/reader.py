"""Features for a ranker: one user and all candidates in one round trip, as arrays, never of two versions.

Owns the request and its consistency; `blob.py` owns the bytes. Must not write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import redis
from numpy.typing import NDArray
from redis.backoff import NoBackoff
from redis.retry import Retry

from freshet import blob
from freshet.layout import Keys, check_version
from schemas.records import InferredBehavior

ITEMS_PER_TRIP = 2_000
"""`items()` and `users()` cut longer lists into trips, as one command holds up all others on the server."""


@dataclass(frozen=True, slots=True, eq=False)
class UserRead:
    """One user's features. An unknown user has zero vectors, no behaviours and an infinite age.

    `log_vector` says what the log shows, `inferred_vector` what a model infers beyond it: weigh them apart.
    """

    log_vector: NDArray[np.float32]  # (dims,)
    inferred_vector: NDArray[np.float32]  # (dims,)
    behaviors: tuple[InferredBehavior, ...]
    present: bool
    age_seconds: float
    tier: int
    degraded: bool
    history_length: int
    version: str


@dataclass(frozen=True, slots=True, eq=False)
class ItemsRead:
    """The features of N items, in the order asked for.

    An unknown or deleted item is a row of the reader's default value, with tier 0 and an infinite age.
    `age_seconds` counts from the event that the features were made from; `tier` is 1 for text, 2 for knowledge.
    """

    item_matrix: NDArray[np.float32]  # (N, dims)
    present: NDArray[np.bool_]  # (N,)
    age_seconds: NDArray[np.float32]  # (N,)
    tier: NDArray[np.uint8]  # (N,)
    version: str


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRead(ItemsRead):
    """N candidates and the user to rank them for, all of one version as it stood at one moment."""

    user: UserRead


@dataclass(frozen=True, slots=True)
class KnowledgeRead:
    """What is known about one item: `document` has the fields of the Avro contract `ItemKnowledge`."""

    document: dict[str, Any]
    age_seconds: float
    version: str


@dataclass(frozen=True, slots=True)
class ItemChanges:
    """Items of one version written and deleted since a moment; pass `newest_ms` to the next call."""

    version: str
    written: list[str]
    deleted: list[str]
    newest_ms: int


class FeatureReader:
    """Reads features from Redis; thread-safe, made once and kept.

    >>> reader = FeatureReader("redis://features:6379/0")
    >>> found = reader.read("user-7", candidate_ids)
    >>> scores = found.item_matrix @ found.user.log_vector
    >>> scores[~found.present] = prior

    `redis_or_url` is a URL, or a redis-py client that does not decode responses. With a URL, a call that takes longer
    than `timeout_s` raises `redis.TimeoutError` and is not retried; a connection that went stale is, once. Errors of
    redis-py pass through: a ranker knows best what to serve then.

    Every answer says which version it holds, and holds one only: the pointer to the active version is fetched in the
    same command as the features, so the next call sees an activation or a rollback, at the price of one more round
    trip, once. `version` pins one instead, active or not. Before any is activated all is absent and the version "".

    `default` fills the rows of absent items. `dims` is the width of an answer as long as the version holds no vector;
    afterwards the version says.
    """

    def __init__(
        self,
        redis_or_url: redis.Redis | str,
        prefix: str = "f",
        *,
        version: str | None = None,
        default: float = 0.0,
        dims: int = 128,
        timeout_s: float = 0.1,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._own = isinstance(redis_or_url, str)
        self._redis: Any = _connect(redis_or_url, timeout_s) if isinstance(redis_or_url, str) else redis_or_url
        if self._redis.get_encoder().decode_responses:
            raise ValueError("the Redis client has decode_responses=True, and features are bytes")
        self._keys = Keys(prefix)
        self._pinned = None if version is None else check_version(version)
        self._last_active = ""  # a guess which version to ask for; the answer says whether it was right
        self._default = default
        self._dims = dims
        self._clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, if the reader made them."""
        if self._own:
            self._redis.close()

    def read(self, user_id: str, item_ids: Sequence[str]) -> FeatureRead:
        """The user and N items in one `MGET`.

        500 items of 128 dims take about 0.5 ms. Ask for a thousand at most: longer lists hold up other readers.
        """

        def keys(version: str) -> list[str]:
            stem = self._keys.item(version, "")
            return [self._keys.user(version, user_id), *[stem + item_id for item_id in item_ids]]

        version, dims, blobs = self._fetch(keys)
        now = self._clock()
        matrix, present, age, tier = self._decode(blobs[1:], dims, now)
        return FeatureRead(matrix, present, age, tier, version, _user(blobs[0], dims, version, now))

    def items(self, item_ids: Sequence[str]) -> ItemsRead:
        """N items, any number of them."""
        version, dims, blobs = self._fetch_all(self._keys.item, item_ids)
        return ItemsRead(*self._decode(blobs, dims, self._clock()), version)

    def users(self, user_ids: Sequence[str]) -> list[UserRead]:
        """Users, any number of them, in the order asked for, all of one version."""
        version, dims, blobs = self._fetch_all(self._keys.user, user_ids)
        now = self._clock()
        return [_user(one, dims, version, now) for one in blobs]

    def knowledge(self, item_id: str) -> KnowledgeRead | None:
        """What is known about one item, or None."""
        version, _, blobs = self._fetch(lambda version: [self._keys.knowledge(version, item_id)])
        found = blob.decode_knowledge(blobs[0])
        if found is None:
            return None
        header, document = found
        return KnowledgeRead(document, _age_seconds(self._clock(), header.event_time), version)

    def changed_items(self, since_ms: int = 0) -> ItemChanges:
        """Ids of items written or deleted at or after `since_ms` of the server's clock; 0: every live item.

        The bound is inclusive, so that what was written in the millisecond of the last look is not missed. Deletions
        are remembered for the writer's `ttl_s`. Start again from 0 where `version` is not the one of the last call.
        """
        version = self._pinned or self._active()
        pipeline = self._redis.pipeline(transaction=True)
        for key in (self._keys.items(version), self._keys.deleted(version)):
            pipeline.zrange(key, since_ms, "+inf", byscore=True, withscores=True)
        written, deleted = pipeline.execute()
        newest = max((int(rows[-1][1]) for rows in (written, deleted) if rows), default=since_ms)
        return ItemChanges(version, [one.decode() for one, _ in written], [one.decode() for one, _ in deleted], newest)

    def _decode(
        self, blobs: Sequence[bytes | None], dims: int, now_ms: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32], NDArray[np.uint8]]:
        rows = blob.decode_rows(blobs, dims)
        age = np.maximum((now_ms - rows.event_time) * 1e-3, 0.0).astype(np.float32)
        if not rows.present.all():
            absent = ~rows.present
            age[absent] = np.inf
            if self._default:
                rows.vectors[absent] = self._default
        return rows.vectors, rows.present, age, rows.tier

    def _fetch(self, keys: Callable[[str], list[str]]) -> tuple[str, int, list[bytes | None]]:
        """Version, its dims and the values of `keys(version)`, all as they stood at one moment.

        1. Ask for pointer, dims and features of the version that was active last, in one command.
        2. If the pointer names that version, done. Else it was swapped: ask again for the one it names.
        """
        version = self._pinned or self._last_active or self._active()
        while True:
            pointer, shape, *blobs = self._redis.mget([self._keys.active(), self._keys.shape(version), *keys(version)])
            active = "" if pointer is None else pointer.decode()
            if self._pinned or active == version:
                return version, blob.Shape.parse(shape).dims if shape else self._dims, blobs
            version = self._last_active = active

    def _fetch_all(self, key: Callable[[str, str], str], ids: Sequence[str]) -> tuple[str, int, list[bytes | None]]:
        """As `_fetch`, in trips of ITEMS_PER_TRIP, from the start again where the version was swapped between two."""
        starts = range(0, max(1, len(ids)), ITEMS_PER_TRIP)
        while True:
            trips = [self._fetch(partial(_keys_of, key, ids[start : start + ITEMS_PER_TRIP])) for start in starts]
            version, dims, _ = trips[0]
            if all(trip[:2] == (version, dims) for trip in trips):
                return version, dims, [one for _, _, blobs in trips for one in blobs]

    def _active(self) -> str:
        pointer = self._redis.get(self._keys.active())
        self._last_active = "" if pointer is None else pointer.decode()
        return self._last_active


def _connect(url: str, timeout_s: float) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )


def _keys_of(key: Callable[[str, str], str], ids: Sequence[str], version: str) -> list[str]:
    return [key(version, one) for one in ids]


def _age_seconds(now_ms: int, event_time: int) -> float:
    return max((now_ms - event_time) / 1_000, 0.0)


def _user(found: bytes | None, dims: int, version: str, now_ms: int) -> UserRead:
    user = blob.decode_user(found, dims)
    if user is None:
        zeros = np.zeros((2, dims), dtype=np.float32)
        return UserRead(zeros[0], zeros[1], (), False, float("inf"), 0, False, 0, version)
    header = user.header
    return UserRead(
        log_vector=user.log_vector,
        inferred_vector=user.inferred_vector,
        behaviors=user.behaviors,
        present=True,
        age_seconds=_age_seconds(now_ms, header.event_time),
        tier=header.tier,
        degraded=bool(header.flags & blob.DEGRADED),
        history_length=header.history_length,
        version=version,
    )
