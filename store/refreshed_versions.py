"""Which versions are refreshed: those whose queue new events enter, whichever worker reads the events.

Owns that rule. Must not enqueue anybody (`store.histories`), nor lease (`store.refresh_queue`).

The active version is one, as rankers read it; so is each that a user-refresh worker announced within `MEMORY_S`, unless
it is being deleted. The queue of a version that nobody refreshes any more stops growing; when somebody does again,
`freshet replay` brings it up to date.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from freshet.connect import Client, keys_for
from freshet.layout import check_version
from store.functions import library
from store.histories import QueuedVersions
from store.versions import Versions

MEMORY_S = 86_400
"""A worker that returns within a day finds everybody who did something in the meantime."""
ANNOUNCE_S = 60.0
"""How often a worker announces the version it refreshes."""
FETCH_S = 2.0
"""How late an activation or the start of a deletion may be noticed. A newly announced version is noticed at once, as
the server refuses to append without it."""


class RefreshedVersions:
    """The refreshed versions under one key prefix, for one thread; `own` stands in where there is none yet."""

    def __init__(self, client: Client, prefix: str, own: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = client
        self._keys = keys_for(client, prefix)
        self._versions = Versions(client, prefix)
        self._own = check_version(own)
        self._clock = clock
        self._cached = QueuedVersions()
        self._fetch_at = float("-inf")

    def announce(self, version: str) -> None:
        """From now on, and for `MEMORY_S`, new events enqueue their users in `version`."""
        call = ([self._keys.refreshing()], [check_version(version), 1_000 * MEMORY_S])
        library("refreshed_versions").call(self._redis, "announce", [call])

    def current(self) -> QueuedVersions:
        """The versions as fetched at most `FETCH_S` ago."""
        return self._cached if self._clock() < self._fetch_at else self.fetch()

    def fetch(self) -> QueuedVersions:
        """The versions as the server knows them now, in two round trips."""
        call = ([self._keys.refreshing()], [1_000 * MEMORY_S])
        [rows] = library("refreshed_versions").call(self._redis, "refreshing", [call])
        names = self._versions.overview()
        announced = {version.decode(): recent == b"1" for version, recent in zip(rows[::2], rows[1::2], strict=True)}
        wanted = {version for version, recent in announced.items() if recent} | {names.active or ""} - {""}
        if names.created:  # an announced version that is not listed was deleted, and must not come back
            wanted &= set(names.live)
        # Before the first activation and announcement, users of this worker's version must not be lost.
        queued = tuple(sorted(wanted)) or (self._own,)
        others = tuple(sorted({*names.all, *announced, self._own} - set(queued)))
        self._cached, self._fetch_at = QueuedVersions(queued, others), self._clock() + FETCH_S
        return self._cached
