"""One round trip: which `MGET`s go to which slots, and where each value of the replies belongs.

Owns the split by bucket. Must not decode a value or touch a socket.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import redis
from numpy.typing import NDArray
from redis.crc import key_slot

from freshet._resp import pack_mget
from freshet.layout import CONTROL_TAG, Keys, bucket_tags

Reply = list[bytes | None] | redis.RedisError
"""The values of the keys of one part, or the error that came instead."""


class Part(NamedTuple):
    """One `MGET`, and the slot of its keys in a Cluster."""

    slot: int
    request: bytes


class Values(NamedTuple):
    """The values of one round trip; `answered` is False where the server of a value did not reply."""

    user: bytes | None
    user_answered: bool
    blobs: list[bytes | None]  # N
    answered: NDArray[np.bool_]  # (N,)
    errors: tuple[redis.RedisError, ...]


class Trip:
    """A request for the active version, the shape, a user if one is given, and N ids of one kind, all of `version`.

    `stem(version, bucket)` is the part of a key before the id. On a single server this is one command. In a Cluster it
    is one for the control keys and one per bucket, and the reader sends all of them before it waits for a reply.
    """

    def __init__(
        self,
        keys: Keys,
        version: str,
        stem: Callable[[str, int], str],
        ids: Sequence[str],
        user_id: str | None = None,
    ) -> None:
        self._n = len(ids)
        self._has_user = user_id is not None
        control = [keys.active(), keys.shape(version)]
        users = [] if user_id is None else [keys.user(version, user_id)]
        self._indices: list[list[int]] = []  # in a Cluster, of the ids of each part after the first
        self._user_part = 0
        if not keys.clustered:
            self.parts = [Part(0, pack_mget(control + users, stem(version, 0), ids))]
            return
        groups: dict[int, list[int]] = {}
        if user_id is not None:
            groups[keys.bucket(user_id)] = []
            self._user_part = 1
        for index, entity_id in enumerate(ids):
            groups.setdefault(keys.bucket(entity_id), []).append(index)
        self.parts = [Part(control_slot(), pack_mget(control, "", ()))]
        for bucket, indices in groups.items():
            request = pack_mget(users, stem(version, bucket), [ids[index] for index in indices])
            self.parts.append(Part(bucket_slots()[bucket], request))
            self._indices.append(indices)
            users = []  # the first bucket is the user's

    def control(self, replies: Sequence[Reply]) -> tuple[bytes | None, bytes | None] | redis.RedisError:
        """The pointer to the active version, and the shape of the version asked for."""
        first = replies[0]
        return first if isinstance(first, redis.RedisError) else (first[0], first[1])

    def values(self, replies: Sequence[Reply]) -> Values:
        """The user's blob, and the others in the order of `ids`."""
        errors = tuple(reply for reply in replies if isinstance(reply, redis.RedisError))
        user: bytes | None = None
        with_user = replies[self._user_part]
        user_answered = not isinstance(with_user, redis.RedisError)
        if not self._indices:  # a single server, or a request for control keys alone
            blobs, answered = self._of_one(replies[0])
            if self._has_user and not isinstance(with_user, redis.RedisError):
                user = with_user[2]
            return Values(user, user_answered, blobs, answered, errors)
        blobs = [None] * self._n
        answered = np.ones(self._n, dtype=np.bool_)
        for part, indices in enumerate(self._indices, 1):
            reply = replies[part]
            if isinstance(reply, redis.RedisError):
                answered[indices] = False
                continue
            if part == self._user_part:
                user, *reply = reply
            for index, value in zip(indices, reply, strict=True):
                blobs[index] = value
        return Values(user, user_answered, blobs, answered, errors)

    def _of_one(self, reply: Reply) -> tuple[list[bytes | None], NDArray[np.bool_]]:
        if isinstance(reply, redis.RedisError):
            return [None] * self._n, np.zeros(self._n, dtype=np.bool_)
        return reply[3 if self._has_user else 2 :], np.ones(self._n, dtype=np.bool_)


@cache
def control_slot() -> int:
    """The slot of the keys that are in no bucket."""
    return key_slot(CONTROL_TAG.encode())


@cache
def bucket_slots() -> tuple[int, ...]:
    """The slot of each bucket."""
    return tuple(key_slot(tag.encode()) for tag in bucket_tags())
