"""Users whose features should be recomputed: taken under a lease, so that no two workers refresh the same one.

Owns who is due, in which order, and the protocol of a version's refresh queue; `HistoryStore.append` enqueues users.
Must not load histories or refresh anyone, nor know which versions are refreshed (`store.refreshed_versions`). All times
are the server's, so workers need not agree on a clock.

A user without events since its last refresh is not in the queue and costs nothing. One with such events is due, or
waits until it is. Due users are ordered by the time since when they are due, moved forward by
`interval_s * ln(events since the last refresh)`, at most `ln 64 = 4.2` intervals: to a first approximation staleness
times activity, for users stale by about an interval. When many more users are due than can be refreshed, staleness
outgrows the bonus and the order becomes oldest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from freshet.connect import Client, keys_for
from freshet.layout import Keys, check_version
from store.config import RefreshSettings
from store.functions import library

USERS_PER_CALL = 500
"""Most users of one server-side call: it runs alone on the server, and Lua unpacks at most a few thousand values."""


@dataclass(frozen=True, slots=True)
class RefreshPolicy:
    """Who is due: a user with `events` new events, or with fewer and a last refresh more than `stale_s` ago.

    Nobody is refreshed twice within `interval_s`. A user who was never refreshed has no features yet, so its first
    event makes it due.
    """

    events: int = 1
    stale_s: float = 600.0
    interval_s: float = 30.0

    @classmethod
    def of(cls, settings: RefreshSettings) -> RefreshPolicy:
        """The policy that `[refresh]` sets; events, refresh, replay and rebuild must agree on it."""
        return cls(settings.events, settings.stale_s, settings.interval_s)

    def arguments(self) -> list[int]:
        """As `policy_of` in `lua/_refresh.lua` reads it; times in milliseconds."""
        return [self.events, round(1_000 * self.stale_s), round(1_000 * self.interval_s)]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to refresh one user until the lease runs out; `token` proves it."""

    user_id: str
    token: str


@dataclass(frozen=True, slots=True)
class QueueState:
    """How many users are `due` now, `waiting` to be, and `leased` (including expired leases nobody has noticed yet).

    `oldest_s`: how long the head of the queue has been due; its bonus for activity counts as waiting.
    """

    due: int
    waiting: int
    leased: int
    oldest_s: float


class RefreshQueue:
    """The refresh queue of one version; every call is one round trip and may be repeated after a Redis error.

    1. `lease` takes due users, ordered by staleness and activity;
    2. `complete` ends the lease of a refreshed user, once its features are durable; `release` returns a user undone;
    3. a lease that runs out returns its user to the front of the queue, as `release` does.

    A user with new events during its lease is due again afterwards. What `lease` costs the server depends on `limit`,
    not on how many users are due, waiting, leased or refreshed.
    """

    def __init__(self, client: Client, version: str, prefix: str = "f", *, policy: RefreshPolicy | None = None) -> None:
        self._redis: Any = client
        self._layout = keys_for(client, prefix)
        self._keys = queue_keys(self._layout, check_version(version))
        self._policy = (policy or RefreshPolicy()).arguments()

    def lease(self, limit: int, lease_s: float) -> list[Lease]:
        """Lease up to `limit` due users for `lease_s`."""
        # A lease of 0 ms would have run out before the answer arrives, and its token would prove nothing.
        lease_ms = max(1, round(1_000 * lease_s))
        calls = [
            (self._keys, [min(USERS_PER_CALL, limit - start), lease_ms, *self._policy])
            for start in range(0, limit, USERS_PER_CALL)
        ]
        leases = []
        for token, *users in library("refresh_queue").call(self._redis, "lease", calls):
            leases += [Lease(_text(user_id), _text(token)) for user_id in users]
        return leases

    def complete(self, leases: Sequence[Lease]) -> int:
        """End these leases as refreshed; returns how many were still held (the others went to another worker)."""
        return self._finish("complete", leases)

    def release(self, leases: Sequence[Lease]) -> int:
        """Return these users to the queue at once, for any worker; returns how many leases were still held."""
        return self._finish("release", leases)

    def enqueue(self, user_ids: Sequence[str]) -> int:
        """Make these users due without an event of theirs; returns how many have a history (the others are skipped).

        Lease and interval still apply; a user already in the queue keeps its position.
        """
        parts = [user_ids[start : start + USERS_PER_CALL] for start in range(0, len(user_ids), USERS_PER_CALL)]
        calls = [
            ([*self._keys, *(self._layout.history(user_id) for user_id in part)], [*self._policy, *part])
            for part in parts
        ]
        return sum(map(int, library("refresh_queue").call(self._redis, "enqueue", calls)))

    def size(self) -> int:
        """Users with events that their features do not reflect yet, without those under a lease."""
        state = self.state()
        return state.due + state.waiting

    def leased(self) -> int:
        """Users being refreshed now, including expired leases that nobody has noticed yet."""
        return self.state().leased

    def state(self) -> QueueState:
        """How many users stand where, in one round trip."""
        [(due, waiting, leased, age_ms)] = library("refresh_queue").call(self._redis, "state", [(self._keys, [])])
        return QueueState(due, waiting, leased, age_ms / 1_000)

    def _finish(self, how: str, leases: Sequence[Lease]) -> int:
        parts = [leases[start : start + USERS_PER_CALL] for start in range(0, len(leases), USERS_PER_CALL)]
        calls = [
            (self._keys, [how, *self._policy, *(field for lease in part for field in (lease.user_id, lease.token))])
            for part in parts
        ]
        return sum(map(int, library("refresh_queue").call(self._redis, "finish", calls)))


def queue_keys(keys: Keys, version: str) -> list[str]:
    """The four keys of a version's queue, in the order of the constants in `lua/_refresh.lua`."""
    return [keys.due(version), keys.waiting(version), keys.leased(version), keys.refreshed(version)]


def _text(part: bytes | str) -> str:
    return part.decode() if isinstance(part, bytes) else part
