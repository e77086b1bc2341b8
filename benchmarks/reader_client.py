"""One client of the reader benchmark, a process of its own: `python -m benchmarks.reader_client`, driven by lines.

Owns the ways to read that share our interpreter: ours, with and without asyncio and cache, and bare redis-py; and the
writer that disturbs them. `benchmarks/reader.py` decides who reads when, and what it means.
"""

from __future__ import annotations

import asyncio
import gc
import select
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import redis
import redis.asyncio
from numpy.typing import NDArray

from benchmarks.children import serve
from benchmarks.reader_data import BEHAVIORS, Data, Requests, Scrubber, item_id, user_id
from freshet import AsyncFeatureReader, FeatureReader
from freshet.blob import HEADER
from freshet.layout import Keys
from freshet.local_cache import LocalCache
from freshet.records import InferredBehavior, ItemFeatures, ItemTier, UserFeatures, UserTier
from store.feature_writer import FeatureWriter
from store.versions import Versions

VERSION = "v1"
TIMEOUT_S = 5.0
"""Far above any figure: a slow answer is to be seen, not cut off."""
WRITTEN_TOGETHER = 2_000
Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Items (N, dims) and the user's two (2, dims)."""


class Bare:
    """What somebody writes who has redis-py and knows our bytes: one MGET, and a view of the joined values."""

    def __init__(self, dims: int) -> None:
        keys = Keys()
        self._item, self._user = keys.item_stem(VERSION), keys.user_stem(VERSION)
        self._dims = dims

    def keys(self, user: str, ids: list[str]) -> list[str]:
        """What to ask for."""
        stem = self._item
        return [self._user + user, *[stem + one for one in ids]]

    def vectors(self, values: Any) -> Vectors:
        """What came back, as float32."""
        user, *items = values
        rows = np.frombuffer(b"".join(items), np.uint8).reshape(len(items), -1)
        matrix = rows[:, HEADER.size :].view("<f2").astype(np.float32)
        pair = np.frombuffer(user, "<f2", 2 * self._dims, HEADER.size).astype(np.float32)
        return matrix, pair.reshape(2, self._dims)


class Client:
    """Answers the lines of `benchmarks/reader.py`."""

    def __init__(self) -> None:
        self._url = ""
        self._requests = Requests(0, 0, 0)
        self._scrub = Scrubber()
        self._loop = asyncio.new_event_loop()
        self._ways: dict[str, Callable[[str, list[str]], Any]] = {}
        self._async_ways: dict[str, Callable[[str, list[str]], Awaitable[Any]]] = {}
        self._caches: dict[str, LocalCache] = {}

    def __call__(self, wish: dict[str, Any]) -> dict[str, Any]:
        """Do what the line says."""
        does = getattr(self, f"do_{wish.pop('do')}")
        answer: dict[str, Any] = does(**wish)
        return answer

    def do_open(self, url: str, folder: str, candidates: int) -> dict[str, Any]:
        """Make every reader; none connects yet."""
        self._url, self._folder = url, Path(folder)
        data = Data.load(self._folder)
        items, dims = data.items.shape
        self._requests = Requests(items, len(data.users), candidates)
        self._caches = {"cache": LocalCache(items, 3_600.0), "cache_1s": LocalCache(items, 1.0)}
        room = np.empty((candidates, dims), np.float32)
        reader = FeatureReader(url, timeout_s=TIMEOUT_S, raise_errors=True)
        bare, client = Bare(dims), redis.Redis.from_url(url)
        self._ways = {
            "bare": lambda user, ids: bare.vectors(client.mget(bare.keys(user, ids))),
            "sync": reader.read,
            "sync_out": partial(reader.read, out=room),
        }
        for name, cache in self._caches.items():
            self._ways[name] = FeatureReader(url, timeout_s=TIMEOUT_S, raise_errors=True, cache=cache).read
        self._loop.run_until_complete(self._open_async(bare))
        return {}

    async def _open_async(self, bare: Bare) -> None:
        client = redis.asyncio.Redis.from_url(self._url)
        reader = AsyncFeatureReader(self._url, timeout_s=TIMEOUT_S, raise_errors=True)

        async def bare_async(user: str, ids: list[str]) -> Vectors:
            return bare.vectors(await client.mget(bare.keys(user, ids)))

        self._async_ways = {"bare_async": bare_async, "async": reader.read}

    def do_fill(self) -> dict[str, Any]:
        """Store everything, through `FeatureWriter`, and activate it."""
        data, began = Data.load(self._folder), time.perf_counter()
        with redis.Redis.from_url(self._url) as client:
            writer = FeatureWriter(client)
            for start in range(0, len(data.items), WRITTEN_TOGETHER):
                stop = min(start + WRITTEN_TOGETHER, len(data.items))
                writer.put_items([item(data, row, 1) for row in range(start, stop)])
            writer.put_users([user(data, row) for row in range(len(data.users))])
            Versions(client).activate(VERSION)
        return {"s": time.perf_counter() - began}

    def do_warm(self, way: str) -> dict[str, Any]:
        """Read every item once."""
        ids, step = self._requests.item_ids, self._requests.candidates
        for start in range(0, len(ids), step):
            self._ways[way](self._requests.user_ids[0], ids[start : start + step])
        return {}

    def do_check(self, way: str, seed: int) -> dict[str, Any]:
        """The vectors of one request as numbers that another process can compare."""
        [(user, ids)] = self._requests.draw(1, seed)
        if way in self._async_ways:
            found = self._loop.run_until_complete(_awaited(self._async_ways[way](user, ids)))
        else:
            found = self._ways[way](user, ids)
        matrix, pair = found if isinstance(found, tuple) else (found.item_matrix, _pair(found.user))
        return {"rows": matrix.sum(1).tolist(), "first": matrix[0].tolist(), "user": pair.ravel().tolist()}

    def do_round(
        self, way: str, requests: int, seed: int, tasks: int = 1, cold: bool = False, popular: float = 0.0
    ) -> dict[str, Any]:
        """Milliseconds of each of so many requests, and seconds in all; `tasks` at once where it is asynchronous."""
        drawn = self._requests.draw(requests, seed, popular)
        gc.collect()
        gc.freeze()
        cache = self._caches.get(way)
        hits, misses = (cache.hits, cache.misses) if cache else (0, 0)
        began = time.perf_counter()
        if way in self._async_ways:
            took = self._loop.run_until_complete(_together(self._async_ways[way], drawn, tasks))
        else:
            took = _one_by_one(self._ways[way], drawn, self._scrub if cold else None)
        answer: dict[str, Any] = {"ms": [one / 1e6 for one in took], "s": time.perf_counter() - began}
        gc.unfreeze()
        if cache:
            asked = cache.hits + cache.misses - hits - misses
            answer["hit_rate"] = (cache.hits - hits) / max(1, asked)
        return answer

    def do_stop(self) -> dict[str, Any]:
        """Nothing: that this line is there ends `do_write`."""
        return {}

    def do_write(self, rate: float) -> dict[str, Any]:
        """Refresh items at `rate` a second until the next line is there; answers the rate that was reached."""
        data = Data.load(self._folder)
        together = max(1, int(rate // 100))  # a hundred calls a second
        with redis.Redis.from_url(self._url) as client:
            writer, written, began = FeatureWriter(client), 0, time.perf_counter()
            while not select.select([sys.stdin], [], [], 0)[0]:
                turn, row = divmod(written, len(data.items))
                rows = range(row, min(row + together, len(data.items)))
                results = writer.put_items([item(data, one, time.time_ns() // 1_000_000 + turn) for one in rows])
                assert all(results), "the writer wrote what was there"
                written += len(rows)
                time.sleep(max(0.0, began + written / rate - time.perf_counter()))
            return {"writes_per_s": written / (time.perf_counter() - began)}


def item(data: Data, row: int, event_time: int) -> ItemFeatures:
    """The record of one item."""
    vector = data.items[row].tobytes()
    dims = data.items.shape[1]
    return ItemFeatures(item_id(row), VERSION, ItemTier.KNOWLEDGE, event_time, event_time, dims, vector, 0, event_time)


def user(data: Data, row: int, event_time: int = 1) -> UserFeatures:
    """The record of one user."""
    log, inferred = (vector.tobytes() for vector in data.users[row])
    behaviors = tuple(InferredBehavior(item_id(row + one), 1 / (1 + one)) for one in range(BEHAVIORS))
    return UserFeatures(
        user_id(row),
        VERSION,
        UserTier.DIFFUSION,
        event_time,
        event_time,
        data.users.shape[2],
        log,
        inferred,
        behaviors=behaviors,
        history_length=64,
    )


def _pair(user: Any) -> NDArray[np.float32]:
    return np.stack([user.log_vector, user.inferred_vector])


async def _awaited(waiting: Awaitable[Any]) -> Any:
    return await waiting


def _one_by_one(
    way: Callable[[str, list[str]], Any], drawn: list[tuple[str, list[str]]], scrub: Callable[[], None] | None
) -> list[int]:
    took = []
    for user, ids in drawn:
        if scrub is not None:
            scrub()
        start = time.perf_counter_ns()
        way(user, ids)
        took.append(time.perf_counter_ns() - start)
    return took


async def _together(
    way: Callable[[str, list[str]], Awaitable[Any]], drawn: list[tuple[str, list[str]]], tasks: int
) -> list[int]:
    took: list[int] = []

    async def client(own: list[tuple[str, list[str]]]) -> None:
        for user, ids in own:
            start = time.perf_counter_ns()
            await way(user, ids)
            took.append(time.perf_counter_ns() - start)

    await asyncio.gather(*[client(drawn[first::tasks]) for first in range(tasks)])
    return took


if __name__ == "__main__":
    serve(Client())
