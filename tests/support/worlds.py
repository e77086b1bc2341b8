"""Where a reader's tests run: one server or a Cluster, with threads or asyncio; a test asks for `world` and gets each.

Owns the clients and readers of one test. An asynchronous reader is called as a synchronous one, in a loop of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from freshet import AsyncFeatureReader, FeatureReader
from freshet.connect import connect, keys_for
from freshet.layout import Keys
from store.feature_writer import FeatureWriter
from store.versions import Versions

KINDS = ("threads", "asyncio", "threads, cluster", "asyncio, cluster")


class Blocking:
    """An `AsyncFeatureReader` with the methods of a `FeatureReader`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self.reader = self._loop.run_until_complete(self._make(args, options))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.reader, name)
        return lambda *args, **options: self._loop.run_until_complete(method(*args, **options))

    def close(self) -> None:
        """Close reader and loop."""
        self._loop.run_until_complete(self.reader.aclose())
        self._loop.run_until_complete(asyncio.sleep(0.02))  # a transport closes some turns later
        self._loop.close()

    @staticmethod
    async def _make(args: tuple[Any, ...], options: dict[str, Any]) -> AsyncFeatureReader:
        return AsyncFeatureReader(*args, **options)


class World:
    """One Redis and what talks to it."""

    def __init__(self, url: str, *, is_async: bool) -> None:
        self.url = url
        self.client: Any = connect(url)
        self.keys: Keys = keys_for(self.client)
        self.versions = Versions(self.client)
        self.writer = FeatureWriter(self.client)
        self._is_async = is_async
        self._readers: list[Any] = []

    def reader(self, url: str | None = None, **options: Any) -> Any:
        """A reader with time enough for a busy machine, unless told otherwise."""
        made = (Blocking if self._is_async else FeatureReader)(url or self.url, **{"timeout_s": 10.0, **options})
        self._readers.append(made)
        return made

    def close(self) -> None:
        """Close all."""
        for reader in self._readers:
            reader.close()
        self.client.close()
