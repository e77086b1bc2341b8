"""Users whose features should be made anew: claimed under a lease, so that no two workers take the same one.

Owns the protocol around the due-set; `HistoryStore.append` marks users due. Must not load histories or refresh anyone.
All times are the server's, so workers need not agree on a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import redis

from freshet.functions import library
from freshet.layout import Keys


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to refresh one user until the lease runs out; `token` proves it."""

    user_id: str
    token: str


class DueUsers:
    """The due-set of one key prefix; every call is one round trip and may be repeated after a Redis error.

    1. `claim` takes due users, oldest mark first, and leases them;
    2. `complete` ends the lease of a refreshed user, once its features are durable; `release` gives one back undone;
    3. a lease that runs out puts its user back among the due ones.

    A user with new events during its lease is due again afterwards.
    """

    def __init__(self, client: redis.Redis, prefix: str = "f") -> None:
        self._redis = client
        keys = Keys(prefix)
        self._keys = [keys.due(), keys.leased(), keys.refreshed()]

    def claim(self, limit: int, lease_s: float, interval_s: float) -> list[Claim]:
        """Lease up to `limit` due users for `lease_s`, leaving out those refreshed within the last `interval_s`."""
        args = [limit, max(1, round(1_000 * lease_s)), round(1_000 * interval_s)]
        [answer] = library("histories").call(self._redis, "claim", [(self._keys, args)])
        token, *users = (part.decode() if isinstance(part, bytes) else str(part) for part in answer)
        return [Claim(user_id, token) for user_id in users]

    def complete(self, claims: Sequence[Claim]) -> int:
        """End these leases as refreshed; answers how many were still held (the others went to someone else)."""
        return self._finish("complete", claims)

    def release(self, claims: Sequence[Claim]) -> int:
        """Give these users back at once, for anybody to claim; answers how many were still held."""
        return self._finish("release", claims)

    def size(self) -> int:
        """Users marked due and not under a lease (or due again during it)."""
        return int(self._redis.zcard(self._keys[0]))

    def leased(self) -> int:
        """Users somebody is refreshing now, or whose lease has run out and nobody has noticed yet."""
        return int(self._redis.zcard(self._keys[1]))

    def _finish(self, how: str, claims: Sequence[Claim]) -> int:
        if not claims:
            return 0
        args = [how, *(part for claim in claims for part in (claim.user_id, claim.token))]
        [held] = library("histories").call(self._redis, "finish", [(self._keys, args)])
        return int(held)
