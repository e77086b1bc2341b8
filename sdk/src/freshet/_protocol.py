"""What a reader asks Redis, and what it makes of the replies, without I/O.

Owns consistency: a result is of one version, whatever was activated meanwhile; and what a missing reply means. A
question is a generator that yields the parts of a round trip and is sent their replies, so that `FeatureReader` and
`AsyncFeatureReader` cannot differ. Must not touch a socket.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import redis
from numpy.typing import NDArray

from freshet._answering import Answering
from freshet._resp import pack_mget
from freshet._round_trip import Part, Reply, Trip, Values, control_slot
from freshet.blob import Shape, decode_rows
from freshet.clock import Clock
from freshet.layout import Keys, check_version
from freshet.local_cache import LocalCache
from freshet.results import FeatureRead, ItemsRead, KnowledgeRead, UserRead

ITEMS_PER_TRIP = 2_000
"""`items()` and `users()` split longer lists into trips, since Redis serves no other client during a command."""

T = TypeVar("T")
Question = Generator[list[Part], list[Reply], T]
Stem = Callable[[str, int], str]


class _Found(NamedTuple):
    version: str
    shape: Shape
    values: Values

    @property
    def partial(self) -> bool:
        return bool(self.values.errors)


class Questions:
    """Every question of a reader; remembers the active version, which the next question asks for first."""

    def __init__(
        self,
        keys: Keys,
        *,
        version: str | None,
        dims: int,
        default: float,
        clock: Clock,
        cache: LocalCache | None = None,
    ) -> None:
        self.keys = keys
        self._pinned = None if version is None else check_version(version)
        self._last_active = ""
        self._unknown = Shape(dims)  # of a version without a vector
        self._shapes: dict[str, Shape] = {}  # of the version that was read last
        self._default = default
        self._clock = clock
        self._cache = cache

    def read(
        self, user_id: str, item_ids: Sequence[str], out: NDArray[np.float32] | None = None
    ) -> Question[FeatureRead]:
        """The user and the items."""
        if self._cache is not None:
            return (yield from self._read_through(self._cache, user_id, item_ids, out))
        found = yield from self._fetch(self.keys.item_stem, item_ids, user_id)
        version, shape, values = found
        answering = self._answering()
        rows = answering.items(*decode_rows(values.blobs, shape, out)[:4])
        user = answering.user(values.user, shape, version, answered=values.user_answered)
        return FeatureRead(*rows, version, values.answered, found.partial, values.errors, user)

    def _read_through(
        self, cache: LocalCache, user_id: str, item_ids: Sequence[str], out: NDArray[np.float32] | None
    ) -> Question[FeatureRead]:
        """As `read`, but asks only for the pointer, the user and the items that the cache lacks.

        1. Copy the cached rows of the version that was active last, and ask for the rest.
        2. If another version turns out to be active, the copy is of no use: start again.
        3. Decode the rest, insert it into the copy, and store it in the cache.
        """
        while True:
            guess, asked_at = self._pinned or self._last_active, cache.now()
            held = cache.look(guess, item_ids, out)
            missing = item_ids if held is None else [item_ids[index] for index in held.missing.tolist()]
            found = yield from self._fetch(self.keys.item_stem, missing, user_id)
            version, shape, values = found
            if held is None or (version == guess and shape.dims == held.vectors.shape[1]):
                break
        rows = decode_rows(values.blobs, shape, out if held is None else None)
        answered = values.answered
        cache.keep(version, missing, rows, answered, asked_at)
        parts = rows[:4]
        if held is not None:
            holding: tuple[NDArray[Any], ...] = held[:4]
            for mine, theirs in zip(holding, parts, strict=True):
                mine[held.missing] = theirs
            parts, answered = held[:4], np.ones(len(item_ids), dtype=np.bool_)
            answered[held.missing] = values.answered
        answering = self._answering()
        user = answering.user(values.user, shape, version, answered=values.user_answered)
        return FeatureRead(*answering.items(*parts), version, answered, found.partial, values.errors, user)

    def items(self, item_ids: Sequence[str], out: NDArray[np.float32] | None = None) -> Question[ItemsRead]:
        """Any number of items."""
        found = yield from self._fetch_all(self.keys.item_stem, item_ids)
        version, shape, values = found
        rows = self._answering().items(*decode_rows(values.blobs, shape, out)[:4])
        return ItemsRead(*rows, version, values.answered, found.partial, values.errors)

    def users(self, user_ids: Sequence[str]) -> Question[tuple[list[UserRead], tuple[redis.RedisError, ...]]]:
        """Any number of users, and the errors of servers that did not answer."""
        version, shape, values = yield from self._fetch_all(self.keys.user_stem, user_ids)
        answering = self._answering()
        pairs = zip(values.blobs, values.answered.tolist(), strict=True)
        return [answering.user(blob, shape, version, answered=answered) for blob, answered in pairs], values.errors

    def knowledge(self, item_id: str) -> Question[tuple[KnowledgeRead | None, tuple[redis.RedisError, ...]]]:
        """What is known about one item."""
        version, _, values = yield from self._fetch(self.keys.knowledge_stem, [item_id])
        return self._answering().knowledge(values.blobs[0], version), values.errors

    def version(self) -> Question[tuple[str, tuple[redis.RedisError, ...]]]:
        """The version to read: the pinned one, or the one that is active now."""
        if self._pinned is not None:
            return self._pinned, ()
        [reply] = yield [Part(control_slot(), pack_mget([self.keys.active()], "", ()))]
        if isinstance(reply, redis.RedisError):
            return self._last_active, (reply,)
        self._last_active = _text(reply[0])
        return self._last_active, ()

    def _answering(self) -> Answering:
        return Answering(self._default, self._clock())

    def _fetch(self, stem: Stem, ids: Sequence[str], user_id: str | None = None) -> Question[_Found]:
        """A version, its shape and the values of its keys.

        1. Ask for the pointer, and for shape and values of the version that was active last, in one round trip.
        2. If the pointer names that version, done: every key names its version, so no value is of another. Otherwise
           ask again, for the version that it names. If the server of the pointer does not answer, take the last one.
        """
        version = self._pinned or self._last_active
        if not version:
            version, errors = yield from self.version()
            if errors:
                missing = Values(None, False, [None] * len(ids), np.zeros(len(ids), dtype=np.bool_), errors)
                return _Found(version, self._shapes.get(version, self._unknown), missing)
        while True:
            trip = Trip(self.keys, version, stem, ids, user_id)
            replies = yield trip.parts
            control = trip.control(replies)
            if isinstance(control, redis.RedisError):
                return _Found(version, self._shapes.get(version, self._unknown), trip.values(replies))
            pointer, shape = control
            active = _text(pointer)
            if self._pinned or active == version:
                if shape:
                    self._shapes = {version: Shape.parse(shape)}
                return _Found(version, self._shapes.get(version, self._unknown), trip.values(replies))
            version = self._last_active = active

    def _fetch_all(self, stem: Stem, ids: Sequence[str]) -> Question[_Found]:
        """As `_fetch`, in trips of ITEMS_PER_TRIP; starts again if another version was activated between two trips."""
        starts = range(0, max(1, len(ids)), ITEMS_PER_TRIP)
        while True:
            trips: list[_Found] = []
            for start in starts:
                found = yield from self._fetch(stem, ids[start : start + ITEMS_PER_TRIP])
                if trips and found[:2] != trips[0][:2]:
                    break
                trips.append(found)
            else:
                return _joined(trips)


def _joined(trips: Sequence[_Found]) -> _Found:
    if len(trips) == 1:
        return trips[0]
    values = [trip.values for trip in trips]
    blobs = [blob for each in values for blob in each.blobs]
    errors = tuple(error for each in values for error in each.errors)
    answered = np.concatenate([each.answered for each in values])
    return trips[0]._replace(values=Values(None, True, blobs, answered, errors))


def _text(pointer: bytes | None) -> str:
    return "" if pointer is None else pointer.decode()
