"""Users whose features should be made anew: claimed under a lease, so that no two workers take the same one.

Owns who is due, in which order, and the protocol around a version's due-set; `HistoryStore.append` marks users by it.
Must not load histories or refresh anyone, nor know which versions are refreshed (`store.refreshed_versions`). All times
are the server's, so workers need not agree on a clock.

A user without events since its last refresh stands nowhere, and nothing ever looks at it. One with such events is due,
or waits for the moment from which it is. Due users are ordered by that moment, moved forward by
`interval_s * ln(events since the last refresh)`, at most `ln 64 = 4.2` intervals: to the first order that is staleness
times activity for users stale by about an interval. Where many more are due than can be refreshed, staleness outgrows
the bonus and the order becomes oldest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from freshet.connect import Client, keys_for
from freshet.layout import Keys, check_version
from store.functions import library
from streams.settings import Settings

USERS_PER_CALL = 500
"""A server-side call takes no more: it runs alone on the server, and Lua unpacks no more than a few thousand values."""


@dataclass(frozen=True, slots=True)
class RefreshPolicy:
    """Who is due: a user with `events` new events, or with fewer and a last refresh more than `stale_s` ago.

    Nobody is refreshed twice within `interval_s`. Nobody knows anything of a user who was never refreshed, so that one
    is due with the first event.
    """

    events: int = 1
    stale_s: float = 600.0
    interval_s: float = 30.0

    @classmethod
    def of(cls, settings: Settings) -> RefreshPolicy:
        """The policy that `FRESHET_REFRESH_*` say."""
        return cls(settings.refresh_events, settings.refresh_stale_s, settings.refresh_interval_s)

    def arguments(self) -> list[int]:
        """As every function of `histories.lua` takes it."""
        return [self.events, round(1_000 * self.stale_s), round(1_000 * self.interval_s)]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to refresh one user until the lease runs out; `token` proves it."""

    user_id: str
    token: str


@dataclass(frozen=True, slots=True)
class QueueState:
    """How many users are `due` now, `waiting` to be, and `leased` (a lease that ran out unnoticed included).

    `oldest_s`: how long the first in line has been due, its bonus for activity counted as waiting.
    """

    due: int
    waiting: int
    leased: int
    oldest_s: float


class RefreshQueue:
    """The due-set of one version; every call is one round trip and may be repeated after a Redis error.

    1. `claim` takes due users, by staleness and activity, and leases them;
    2. `complete` ends the lease of a refreshed user, once its features are durable; `release` gives one back undone;
    3. a lease that runs out puts its user back at the front of the due ones, as `release` does.

    A user with new events during its lease is due again afterwards. What a claim costs the server depends on `limit`,
    not on how many are due, waiting, leased or refreshed.
    """

    def __init__(self, client: Client, version: str, prefix: str = "f", *, policy: RefreshPolicy | None = None) -> None:
        self._redis: Any = client
        self._layout = keys_for(client, prefix)
        self._keys = due_keys(self._layout, check_version(version))
        self._policy = (policy or RefreshPolicy()).arguments()

    def claim(self, limit: int, lease_s: float) -> list[Lease]:
        """Lease up to `limit` due users for `lease_s`."""
        lease_ms = max(1, round(1_000 * lease_s))
        calls = [
            (self._keys, [min(USERS_PER_CALL, limit - start), lease_ms, *self._policy])
            for start in range(0, limit, USERS_PER_CALL)
        ]
        claims = []
        for token, *users in library("refresh_queue").call(self._redis, "lease", calls):
            claims += [Lease(_text(user_id), _text(token)) for user_id in users]
        return claims

    def complete(self, claims: Sequence[Lease]) -> int:
        """End these leases as refreshed; answers how many were still held (the others went to someone else)."""
        return self._finish("complete", claims)

    def release(self, claims: Sequence[Lease]) -> int:
        """Give these users back at once, for anybody to claim; answers how many were still held."""
        return self._finish("release", claims)

    def mark(self, user_ids: Sequence[str]) -> int:
        """Make these users due without an event of theirs; answers how many have a history, as the others do not count.

        Lease and interval hold for them; who is due or waits already keeps its place.
        """
        parts = [user_ids[start : start + USERS_PER_CALL] for start in range(0, len(user_ids), USERS_PER_CALL)]
        calls = [
            ([*self._keys, *(self._layout.history(user_id) for user_id in part)], [*self._policy, *part])
            for part in parts
        ]
        return sum(map(int, library("refresh_queue").call(self._redis, "enqueue", calls)))

    def size(self) -> int:
        """Users with events that their features do not know and nobody is working on."""
        state = self.state()
        return state.due + state.waiting

    def leased(self) -> int:
        """Users somebody is refreshing now, or whose lease has run out and nobody has noticed yet."""
        return self.state().leased

    def state(self) -> QueueState:
        """How the queue stands, in one round trip."""
        [(due, waiting, leased, age_ms)] = library("refresh_queue").call(self._redis, "state", [(self._keys, [])])
        return QueueState(due, waiting, leased, age_ms / 1_000)

    def _finish(self, how: str, claims: Sequence[Lease]) -> int:
        parts = [claims[start : start + USERS_PER_CALL] for start in range(0, len(claims), USERS_PER_CALL)]
        calls = [
            (self._keys, [how, *self._policy, *(field for claim in part for field in (claim.user_id, claim.token))])
            for part in parts
        ]
        return sum(map(int, library("refresh_queue").call(self._redis, "finish", calls)))


def due_keys(keys: Keys, version: str) -> list[str]:
    """A version's due-set, as the functions of `histories.lua` take it."""
    return [keys.due(version), keys.waiting(version), keys.leased(version), keys.refreshed(version)]


def _text(part: bytes | str) -> str:
    return part.decode() if isinstance(part, bytes) else part
