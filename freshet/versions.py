"""Which feature version rankers read: one pointer in Redis, swapped at once for items and users together.

Owns the pointer. Must not judge whether a version is fit to be read, nor touch its features.
"""

from __future__ import annotations

import redis

from freshet.layout import Keys, check_version


class Versions:
    """The active-version pointer under one key prefix.

    A `FeatureReader` sees a swap with its next call, and each of its answers holds features of one version only.
    """

    def __init__(self, client: redis.Redis, prefix: str = "f") -> None:
        self._redis = client
        self._key = Keys(prefix).active()

    def active(self) -> str | None:
        """The version rankers read, or None before the first activation."""
        return _text(self._redis.get(self._key))

    def activate(self, version: str) -> str | None:
        """Make rankers read `version` from now on; answers the version they read before, to roll back to."""
        return _text(self._redis.set(self._key, check_version(version), get=True))

    def activate_if_none(self, version: str) -> bool:
        """Activate `version` where none is active yet; True if that was so. Two workers may race: one wins."""
        return bool(self._redis.set(self._key, check_version(version), nx=True))


def _text(value: object) -> str | None:
    return value.decode() if isinstance(value, bytes) else str(value) if value is not None else None
