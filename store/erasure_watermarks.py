"""Tombstone times: up to when each erased user was erased, so that no replay brings older events back.

Owns reading them, restoring them after Redis was lost, and the list of erasures with work pending. They are set in the
server-side call that deletes a history (`lua/histories.lua`), which refuses every older event from then on. A user is
kept as the SHA-1 of its id, about 110 bytes, forever: a list of ids would be the very data they asked to have removed.
Must not delete anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from freshet.connect import Client, keys_for
from store.functions import library

_ROWS_PER_CALL = 1_000


def digest(user_id: str) -> str:
    """The name an erased user is kept under: the SHA-1 of its id, hexadecimal."""
    # `redis.sha1hex` in lua/histories.lua computes the same. The digest hides an id, it does not prove one.
    return hashlib.sha1(user_id.encode(), usedforsecurity=False).hexdigest()


class Erasures:
    """The tombstone times under one key prefix; thread-safe, and any call may be repeated after a Redis error.

    All timestamps are epoch milliseconds.
    """

    def __init__(self, client: Client, prefix: str = "f") -> None:
        self._redis: Any = client
        self._keys = keys_for(client, prefix)

    def timestamps(self, user_ids: Sequence[str]) -> list[int]:
        """The time up to which each user was erased, 0 where it never was. One round trip."""
        if not user_ids:  # ZMSCORE without members is an error
            return []
        scores = self._redis.zmscore(self._keys.erased(), [digest(user_id) for user_id in user_ids])
        return [int(score or 0) for score in scores]

    def restore(self, timestamps: Mapping[str, int]) -> None:
        """Put tombstone times back, by digest; the later one of each user stays."""
        rows = list(timestamps.items())
        calls = [
            ([self._keys.erased()], [part for row in rows[start : start + _ROWS_PER_CALL] for part in row])
            for start in range(0, len(rows), _ROWS_PER_CALL)
        ]
        library("erasure_watermarks").call(self._redis, "restore", calls)

    def add_pending(self, timestamps: Mapping[str, int]) -> None:
        """Record users whose dead letters are still to be removed."""
        if timestamps:
            self._redis.zadd(self._keys.erasures_owed(), dict(timestamps), gt=True)

    def pending(self) -> dict[str, int]:
        """Users whose dead letters are still to be removed, with the time of their erasure."""
        rows = self._redis.zrange(self._keys.erasures_owed(), 0, -1, withscores=True)
        return {user_id.decode(): int(score) for user_id, score in rows}

    def done(self, timestamps: Mapping[str, int]) -> None:
        """Record that these dead letters are gone up to these times; a user erased again since stays pending."""
        if timestamps:
            call = ([self._keys.erasures_owed()], [part for row in timestamps.items() for part in row])
            library("erasure_watermarks").call(self._redis, "done", [call])
