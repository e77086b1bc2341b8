"""One round trip: which `MGET`s go to which slots, and where each value of the replies belongs.

Owns the split by bucket. Must not decode a value, nor touch a socket.
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
"""The values of one part's keys, or why there are none."""


class Part(NamedTuple):
    """One `MGET`, and the slot of its keys where there are several servers."""

    slot: int
    request: bytes


class Values(NamedTuple):
    """What came back; where `answered` is False the server of a value said nothing."""

    user: bytes | None
    user_answered: bool
    blobs: list[bytes | None]  # N
    answered: NDArray[np.bool_]  # (N,)
    errors: tuple[redis.RedisError, ...]


class Trip:
    """Pointer, shape, perhaps a user, and N ids of one kind (`stem` of version and bucket), all of `version`.

    On a single server that is one command. In a Cluster it is one for the control keys and one a bucket, and the reader
    sends all of them before it waits for any.
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
        self._places: list[list[int]] = []  # of the values of each part after the first, in a Cluster
        self._user_part = 0
        if not keys.clustered:
            self.parts = [Part(0, pack_mget(control + users, stem(version, 0), ids))]
            return
        groups: dict[int, list[int]] = {}
        if user_id is not None:
            groups[keys.bucket(user_id)] = []
            self._user_part = 1
        for place, one in enumerate(ids):
            groups.setdefault(keys.bucket(one), []).append(place)
        self.parts = [Part(control_slot(), pack_mget(control, "", ()))]
        for bucket, places in groups.items():
            request = pack_mget(users, stem(version, bucket), [ids[place] for place in places])
            self.parts.append(Part(bucket_slots()[bucket], request))
            self._places.append(places)
            users = []  # the first bucket is the user's

    def control(self, replies: Sequence[Reply]) -> tuple[bytes | None, bytes | None] | redis.RedisError:
        """Pointer to the active version and shape of the one asked for."""
        first = replies[0]
        return first if isinstance(first, redis.RedisError) else (first[0], first[1])

    def values(self, replies: Sequence[Reply]) -> Values:
        """User and blobs in the order asked for."""
        errors = tuple(reply for reply in replies if isinstance(reply, redis.RedisError))
        user: bytes | None = None
        with_user = replies[self._user_part]
        user_answered = not isinstance(with_user, redis.RedisError)
        if not self._places:  # a single server, or nothing asked for but control keys
            blobs, answered = self._of_one(replies[0])
            if self._has_user and not isinstance(with_user, redis.RedisError):
                user = with_user[2]
            return Values(user, user_answered, blobs, answered, errors)
        blobs = [None] * self._n
        answered = np.ones(self._n, dtype=np.bool_)
        for part, places in enumerate(self._places, 1):
            reply = replies[part]
            if isinstance(reply, redis.RedisError):
                answered[places] = False
                continue
            if part == self._user_part:
                user, *reply = reply
            for place, value in zip(places, reply, strict=True):
                blobs[place] = value
        return Values(user, user_answered, blobs, answered, errors)

    def _of_one(self, reply: Reply) -> tuple[list[bytes | None], NDArray[np.bool_]]:
        if isinstance(reply, redis.RedisError):
            return [None] * self._n, np.zeros(self._n, dtype=np.bool_)
        return reply[3 if self._has_user else 2 :], np.ones(self._n, dtype=np.bool_)


@cache
def control_slot() -> int:
    """The slot of the keys that belong to no bucket."""
    return key_slot(CONTROL_TAG.encode())


@cache
def bucket_slots() -> tuple[int, ...]:
    """The slot of each bucket."""
    return tuple(key_slot(tag.encode()) for tag in bucket_tags())
