"""Who was erased, and up to when: the watermark that no replay passes.

Owns its reading, and its making anew after Redis was lost. It is set in the same server-side call that forgets a
history (`histories.lua`), which refuses everything older from then on. A user is kept as the SHA-1 of its id, about
110 bytes, for ever: a list of the erased would be what they asked not to be in. Must not delete anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from freshet.connect import Client, keys_for
from store.functions import library

_TOGETHER = 1_000


def digest(user_id: str) -> str:
    """How an erased user is called: the SHA-1 of its id, hexadecimal."""
    return hashlib.sha1(user_id.encode(), usedforsecurity=False).hexdigest()


class Erasures:
    """The watermarks under one key prefix; thread-safe, and any call may be repeated after a Redis error."""

    def __init__(self, client: Client, prefix: str = "f") -> None:
        self._redis: Any = client
        self._keys = keys_for(client, prefix)

    def timestamps(self, user_ids: Sequence[str]) -> list[int]:
        """Up to which epoch millisecond each of these was erased, 0 where it never was. One round trip."""
        if not user_ids:
            return []
        found = self._redis.zmscore(self._keys.erased(), [digest(user_id) for user_id in user_ids])
        return [int(score or 0) for score in found]

    def restore(self, timestamps: Mapping[str, int]) -> None:
        """Put watermarks back, by digest; the later one of each user stays."""
        rows = list(timestamps.items())
        calls = [
            ([self._keys.erased()], [part for row in rows[start : start + _TOGETHER] for part in row])
            for start in range(0, len(rows), _TOGETHER)
        ]
        library("erasure_watermarks").call(self._redis, "restore", calls)

    def owe(self, timestamps: Mapping[str, int]) -> None:
        """Note users whose dead letters are still to be removed."""
        if timestamps:
            self._redis.zadd(self._keys.erasures_owed(), dict(timestamps), gt=True)

    def owed(self) -> dict[str, int]:
        """Users whose dead letters are still to be removed, with the moment of their erasure."""
        rows = self._redis.zrange(self._keys.erasures_owed(), 0, -1, withscores=True)
        return {user_id.decode(): int(score) for user_id, score in rows}

    def settle(self, timestamps: Mapping[str, int]) -> None:
        """Note that these dead letters are gone up to these moments; one erased again since is owed still."""
        if timestamps:
            call = ([self._keys.erasures_owed()], [part for row in timestamps.items() for part in row])
            library("erasure_watermarks").call(self._redis, "done", [call])
