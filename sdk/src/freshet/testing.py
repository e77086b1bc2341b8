"""Readers for a ranker's own unit tests: features from a dict, no Redis.

    from freshet.testing import FakeItem, FakeReader, FakeUser

    reader = FakeReader(
        items={"item-1": [1.0, 0.0], "item-2": FakeItem([0.0, 1.0], age_seconds=90)},
        users={"user-7": FakeUser([1.0, 0.0], behaviors={"item-2": 0.8})},
    )
    assert my_ranker(reader).rank("user-7", ["item-1", "item-2"]) == ["item-1", "item-2"]

Owns the fakes. They replace the connection only: requests, bytes and results go through the code of the real readers,
so a fake cannot return what a real reader would not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import redis
from numpy.typing import ArrayLike

from freshet._resp import unpack_mget
from freshet._round_trip import Part, Reply
from freshet.async_reader import AsyncFeatureReader
from freshet.blob import Shape, encode_item, encode_knowledge, encode_user
from freshet.layout import Keys
from freshet.metrics import ReadObserver
from freshet.reader import FeatureReader
from freshet.records import InferredBehavior, ItemFeatures, ItemKnowledge, ItemTier, UserFeatures, UserTier
from freshet.results import ItemChanges

_NOW_MS = 1_750_000_000_000  # a fixed clock, so that ages are exactly what the test says
_URL = "redis://fake.invalid:6379/0"  # never connected to


@dataclass(frozen=True, slots=True, eq=False)
class FakeItem:
    """One item: `vector` (dims,), rounded to float16 as in Redis; `tier` is 1 for text, 2 for knowledge."""

    vector: ArrayLike
    age_seconds: float = 0.0
    tier: int = ItemTier.KNOWLEDGE


@dataclass(frozen=True, slots=True, eq=False)
class FakeUser:
    """One user: both vectors (dims,), rounded to float16 as in Redis; without `inferred_vector` it is zero.

    `behaviors` maps the id of each inferred item to its confidence in [0, 1].
    """

    log_vector: ArrayLike
    inferred_vector: ArrayLike | None = None
    behaviors: Mapping[str, float] = field(default_factory=dict)
    age_seconds: float = 0.0
    tier: int = UserTier.DIFFUSION
    degraded: bool = False
    history_length: int = 0


FakeItems = Mapping[str, FakeItem | ArrayLike]
FakeUsers = Mapping[str, FakeUser | ArrayLike]


class _Outage:
    """What both fakes have beside the methods of a reader."""

    _memory: _Memory

    @property
    def outage(self) -> bool:
        """Whether Redis is down: reads are then partial, or raise with `raise_errors`."""
        return self._memory.outage

    @outage.setter
    def outage(self, down: bool) -> None:
        self._memory.outage = down


class FakeReader(_Outage, FeatureReader):
    """A `FeatureReader` of the features in a dict.

    `items` and `users` map ids to `FakeItem` and `FakeUser`, or to a vector alone. All vectors are of one width.
    `version` "" is a platform without an active version: everything is absent. Set `outage` to True to see what the
    ranker does when Redis does not answer. The other arguments are those of `FeatureReader`.

    Raises ValueError where vectors differ in width or hold a value that float16 cannot.
    """

    def __init__(
        self,
        items: FakeItems | None = None,
        users: FakeUsers | None = None,
        knowledge: Mapping[str, ItemKnowledge] | None = None,
        *,
        version: str = "v1",
        default: float = 0.0,
        dims: int = 128,
        raise_errors: bool = False,
        observer: ReadObserver | None = None,
    ) -> None:
        super().__init__(
            _URL, default=default, dims=dims, raise_errors=raise_errors, observer=observer, clock=_fixed_clock
        )
        self._memory = _Memory(self._keys, items or {}, users or {}, knowledge or {}, version)
        self._servers = self._memory

    def changed_items(self, since_ms: int = 0) -> ItemChanges:
        """Every item, as if it had been written just now; nothing is deleted."""
        return self._memory.changed_items()


class AsyncFakeReader(_Outage, AsyncFeatureReader):
    """`FakeReader` for asyncio; made inside the event loop, as an `AsyncFeatureReader` is."""

    def __init__(
        self,
        items: FakeItems | None = None,
        users: FakeUsers | None = None,
        knowledge: Mapping[str, ItemKnowledge] | None = None,
        *,
        version: str = "v1",
        default: float = 0.0,
        dims: int = 128,
        raise_errors: bool = False,
        observer: ReadObserver | None = None,
    ) -> None:
        super().__init__(
            _URL, default=default, dims=dims, raise_errors=raise_errors, observer=observer, clock=_fixed_clock
        )
        self._memory = _Memory(self._keys, items or {}, users or {}, knowledge or {}, version)
        self._servers = _AsyncMemory(self._memory)

    async def changed_items(self, since_ms: int = 0) -> ItemChanges:
        """Every item, as if it had been written just now; nothing is deleted."""
        return self._memory.changed_items()


class _Memory:
    """Stands where `SingleServer` does, and answers from a dict of keys and values."""

    def __init__(
        self,
        keys: Keys,
        items: FakeItems,
        users: FakeUsers,
        knowledge: Mapping[str, ItemKnowledge],
        version: str,
    ) -> None:
        self.outage = False
        self._version, self._item_ids = version, list(items)
        features = [_item(item_id, version, item) for item_id, item in items.items()]
        people = [_user(user_id, version, user) for user_id, user in users.items()]
        widths = {feature.dims for feature in features} | {person.dims for person in people}
        if len(widths) > 1:
            raise ValueError(f"vectors are of {sorted(widths)} dims, wanted one width")
        self._values: dict[str, bytes] = {keys.active(): version.encode()} if version else {}
        self._values |= {keys.shape(version): str(Shape(dims)).encode() for dims in widths}
        self._values |= {keys.item(version, feature.item_id): encode_item(feature) for feature in features}
        self._values |= {keys.user(version, person.user_id): encode_user(person) for person in people}
        self._values |= {
            keys.knowledge(version, item_id): encode_knowledge(known) for item_id, known in knowledge.items()
        }

    def exchange(self, parts: Sequence[Part], deadline: float) -> list[Reply]:
        """See `freshet._transport.Servers`."""
        if self.outage:
            return [redis.TimeoutError("no answer by the deadline")] * len(parts)
        return [[self._values.get(key) for key in unpack_mget(part.request)] for part in parts]

    def close(self) -> None:
        """There is nothing to close."""

    def changed_items(self) -> ItemChanges:
        """Every item is new."""
        if self.outage:
            raise redis.TimeoutError("no answer by the deadline")
        return ItemChanges(self._version, list(self._item_ids), [], _NOW_MS)


class _AsyncMemory:
    """`_Memory` for asyncio."""

    def __init__(self, memory: _Memory) -> None:
        self._memory = memory

    async def exchange(self, parts: Sequence[Part], deadline: float) -> list[Reply]:
        """See `freshet._async_transport.AsyncServers`."""
        await asyncio.sleep(0)  # a real read lets other tasks run, so the fake must as well
        return self._memory.exchange(parts, deadline)

    async def aclose(self) -> None:
        """There is nothing to close."""


def _fixed_clock() -> int:
    return _NOW_MS


def _item(item_id: str, version: str, item: FakeItem | ArrayLike) -> ItemFeatures:
    if not isinstance(item, FakeItem):
        item = FakeItem(item)
    vector, dims = _float16(item.vector, item_id)
    made = _made(item.age_seconds)
    return ItemFeatures(item_id, version, item.tier, made, made, dims, vector)


def _user(user_id: str, version: str, user: FakeUser | ArrayLike) -> UserFeatures:
    if not isinstance(user, FakeUser):
        user = FakeUser(user)
    log_vector, dims = _float16(user.log_vector, user_id)
    inferred = np.zeros(dims) if user.inferred_vector is None else user.inferred_vector
    inferred_vector, inferred_dims = _float16(inferred, user_id)
    if inferred_dims != dims:
        raise ValueError(f"{user_id!r} has vectors of {dims} and {inferred_dims} dims, wanted one width")
    made = _made(user.age_seconds)
    return UserFeatures(
        user_id,
        version,
        user.tier,
        made,
        made,
        dims,
        log_vector,
        inferred_vector,
        [InferredBehavior(item_id, confidence) for item_id, confidence in user.behaviors.items()],
        history_length=user.history_length,
        degraded=user.degraded,
    )


def _float16(values: ArrayLike, owner: str) -> tuple[bytes, int]:
    """The vector as it stands in a record, and its width."""
    vector = np.asarray(values, np.float64)
    if vector.ndim != 1 or not len(vector):
        raise ValueError(f"the vector of {owner!r} has shape {vector.shape}, wanted (dims,)")
    if not (np.abs(vector) <= np.finfo(np.float16).max).all():  # NaN is refused as well
        raise ValueError(f"the vector of {owner!r} holds a value that float16 cannot")
    return vector.astype("<f2").tobytes(), len(vector)


def _made(age_seconds: float) -> int:
    """When features of this age were made."""
    return _NOW_MS - round(age_seconds * 1_000)
