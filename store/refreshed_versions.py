"""Which versions are refreshed: those whose users become due by new events, wherever the events are read.

Owns that rule. Must not mark anybody (`store.histories`), nor claim (`store.refresh_queue`).

The active version is one, as rankers read it; so is each that a user-refresh worker announced within `MEMORY_S`, if it
is not being deleted. A version that nobody refreshes any more is left alone from then on, and so its due-set ends to
grow; `freshet replay` brings it up to date when somebody does.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from freshet.connect import Client, keys_for
from freshet.layout import check_version
from store.functions import library
from store.histories import DueVersions
from store.versions import Versions

MEMORY_S = 86_400
"""A worker that comes back within a day finds everybody who did something meanwhile."""
ANNOUNCE_S = 60.0
"""How often a worker says that it refreshes."""
LOOK_S = 2.0
"""An activation or the beginning of a deletion is heard of within this time; a version announced anew at once, as the
server refuses to append without it."""


class RefreshedVersions:
    """The refreshed versions under one key prefix, for one thread; `own` stands in where there is none yet."""

    def __init__(self, client: Client, prefix: str, own: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = client
        self._keys = keys_for(client, prefix)
        self._versions = Versions(client, prefix)
        self._own = check_version(own)
        self._clock = clock
        self._found = DueVersions()
        self._look_at = float("-inf")

    def announce(self, version: str) -> None:
        """From now on, and for `MEMORY_S`, new events mark their users in `version`."""
        call = ([self._keys.refreshing()], [check_version(version), 1_000 * MEMORY_S])
        library("refreshed_versions").call(self._redis, "announce", [call])

    def current(self) -> DueVersions:
        """As `look` found them, not more than `LOOK_S` ago."""
        return self._found if self._clock() < self._look_at else self.look()

    def look(self) -> DueVersions:
        """Ask the server, in two round trips."""
        call = ([self._keys.refreshing()], [1_000 * MEMORY_S])
        [rows] = library("refreshed_versions").call(self._redis, "refreshing", [call])
        names = self._versions.overview()
        announced = {version.decode(): lately == b"1" for version, lately in zip(rows[::2], rows[1::2], strict=True)}
        wanted = {version for version, lately in announced.items() if lately} | {names.active or ""} - {""}
        if names.created:  # what is not there is deleted, and must not come back
            wanted &= set(names.live)
        marked = tuple(sorted(wanted)) or (self._own,)
        others = tuple(sorted({*names.all, *announced, self._own} - set(marked)))
        self._found, self._look_at = DueVersions(marked, others), self._clock() + LOOK_S
        return self._found
