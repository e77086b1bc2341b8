"""User histories in Redis: the newest events of every user, which enqueue the user for a refresh.

Owns the layout of a history (a sorted set: score = event time, member = identity, item and type) and its server-side
function. Must not know Kafka, nor how a batch is decoded.

A packed record is `score i64 · member length u32 · member`, all big-endian. A member is
`0x00 · partition u32 · offset u64` or `0x01 · length u16 · event id` (the identity, so that a redelivered event is
the same member), then `length u16 · item id · event type`. Offsets are big-endian because Redis orders members of equal
score by their bytes: so events of one millisecond keep the order of the log.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from freshet.connect import Client, keys_for
from freshet.layout import check_version
from store.functions import Call, library
from store.refresh_queue import RefreshPolicy, queue_keys
from store.scan import Pace, nodes, scan

NOBODY: Mapping[str, int] = MappingProxyType({})
OFFSET_IDENTITY, EVENT_IDENTITY = 0, 1
USERS_PER_CALL, EVENTS_PER_CALL = 500, 1_000
"""One call blocks the server for about 1.4 ms at 1,000 events; 4,000 would take 5.4 ms from a ranker's p99."""

_OFFSET_HEAD = struct.Struct(">BIQ")
_EVENT_HEAD = struct.Struct(">BH")
_LENGTH = struct.Struct(">H")
_RECORD_HEAD = struct.Struct(">qI")


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One event as it enters a history; its identity is `event_id`, or partition and offset where that is empty."""

    user_id: str
    item_id: str
    event_type: str
    event_time: int
    event_id: str = ""
    partition: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """The kept events of one user, oldest first; empty where there are none."""

    user_id: str
    item_ids: tuple[str, ...]
    event_types: tuple[str, ...]
    event_times: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HistoryBatch:
    """Events grouped by user: user `u` owns the packed records `first[u]` up to `first[u + 1]`.

    user_ids (U,) distinct · erased (U,) int: forget events up to this time, epoch milliseconds, 0: none ·
    first (U+1,) int64 · ends (E+1,) int64: record `e` is `data[ends[e]:ends[e + 1]]`.
    """

    user_ids: Sequence[str]
    erased: Sequence[int]
    first: NDArray[np.int64]
    ends: NDArray[np.int64]
    data: memoryview

    def __len__(self) -> int:
        return len(self.ends) - 1

    @classmethod
    def of(cls, events: Iterable[HistoryEvent], erased: Mapping[str, int] = NOBODY) -> HistoryBatch:
        """Group events one by one; for small writers and tests (`processors.users.fold_events` does it by columns)."""
        records: dict[str, list[bytes]] = {user_id: [] for user_id in erased}
        for event in events:
            records.setdefault(event.user_id, []).append(pack(event))
        flat = [record for user in records.values() for record in user]
        return cls(
            user_ids=list(records),
            erased=[erased.get(user_id, 0) for user_id in records],
            first=_starts([len(user) for user in records.values()]),
            ends=_starts([len(record) for record in flat]),
            data=memoryview(b"".join(flat)),
        )


def pack(event: HistoryEvent) -> bytes:
    """The packed record of one event. Raises `ValueError` for an id longer than 65,535 bytes."""
    item = event.item_id.encode()
    try:
        if event.event_id:
            name = event.event_id.encode()
            identity = _EVENT_HEAD.pack(EVENT_IDENTITY, len(name)) + name
        else:
            identity = _OFFSET_HEAD.pack(OFFSET_IDENTITY, event.partition, event.offset)
        member = identity + _LENGTH.pack(len(item)) + item + event.event_type.encode()
    except struct.error as error:
        raise ValueError(f"an event of user {event.user_id!r} does not fit a history: {error}") from error
    return _RECORD_HEAD.pack(event.event_time, len(member)) + member


def unpack_member(member: bytes) -> tuple[str, str]:
    """Item id and event type of a member."""
    by_offset = member[0] == OFFSET_IDENTITY
    at = _OFFSET_HEAD.size if by_offset else _EVENT_HEAD.size + _EVENT_HEAD.unpack_from(member)[1]
    end = at + _LENGTH.size + _LENGTH.unpack_from(member, at)[0]
    return member[at + _LENGTH.size : end].decode(), member[end:].decode()


class VersionsChanged(Exception):
    """A version is refreshed that the writer of histories does not know yet: fetch the versions and try again."""


@dataclass(frozen=True, slots=True)
class QueuedVersions:
    """`queued`: the versions whose refresh queue new events enter; `others`: those an erased user must leave too."""

    queued: Sequence[str] = ()
    others: Sequence[str] = ()


NO_VERSIONS = QueuedVersions()


class HistoryStore:
    """Reads and writes histories; safe to share between threads, as redis-py's client is.

    `length`: how many of a user's newest events are kept. `ttl_s`: how long a history lives after its last write.
    `policy`: when new events make a user due; must be the policy of the version's `RefreshQueue`.
    Redis errors come through as redis-py raises them; every call may be repeated after one.
    """

    def __init__(
        self,
        client: Client,
        prefix: str = "f",
        *,
        length: int = 200,
        ttl_s: int = 30 * 86_400,
        policy: RefreshPolicy | None = None,
    ) -> None:
        self._redis: Any = client
        self._keys = keys_for(client, prefix)
        self._options: list[Any] = [length, 1_000 * ttl_s, *(policy or RefreshPolicy()).arguments()]

    def append(self, batch: HistoryBatch, versions: QueuedVersions = NO_VERSIONS) -> int:
        """Add a batch and enqueue its users in the same server-side calls; returns how many records were new.

        Idempotent and independent of order: the newest `length` of all records ever added remain. An erased user first
        loses its history and leaves the queues; from then on its events up to that time are refused, in whatever
        batch they come (`store.erasure_watermarks`). Raises `VersionsChanged` where a version is refreshed that is not
        among `versions` (`store.refreshed_versions` knows them).
        """
        try:
            return sum(map(int, library("histories").call(self._redis, "append", self._calls(batch, versions))))
        except redis.ResponseError as error:  # redis-py has no class for a code of ours: it stays in the text
            if "FRESHET_VERSIONS" in str(error):
                raise VersionsChanged(str(error)) from error
            raise

    def load(self, user_ids: Sequence[str]) -> list[History]:
        """The histories of these users, in their order, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for user_id in user_ids:
            pipeline.zrange(self._keys.history(user_id), 0, -1, withscores=True)
        return [_history(user_id, rows) for user_id, rows in zip(user_ids, pipeline.execute(), strict=True)]

    def scan(self, batch: int = 500) -> Iterator[History]:
        """Every history once, in no order; one that is added or deleted meanwhile may or may not be among them."""
        seen: set[str] = set()  # SCAN returns a key twice where the server resizes its hash table meanwhile
        for user_ids in self.scan_users():
            new = sorted(set(user_ids) - seen)
            seen.update(new)
            for start in range(0, len(new), batch):
                yield from (history for history in self.load(new[start : start + batch]) if history.item_ids)

    def scan_users(self, *, pace: Pace | None = None) -> Iterator[list[str]]:
        """The users that have a history, a few at a time and in no order; SCAN may return one twice."""
        prefix, pace = self._keys.history("").encode(), pace or Pace()
        for node in nodes(self._redis):
            for keys in scan(self._redis, prefix.decode() + "*", pace, node=node):
                yield [key[len(prefix) :].decode() for key in keys]

    def erase(self, timestamps: Mapping[str, int], versions: QueuedVersions = NO_VERSIONS) -> None:
        """Forget each user up to its timestamp: its history, and all that the queues of `versions` hold of it."""
        self.append(HistoryBatch.of((), erased=timestamps), versions)

    def _calls(self, batch: HistoryBatch, versions: QueuedVersions = NO_VERSIONS) -> Iterator[Call]:
        """Keys and arguments of each call, within USERS_PER_CALL and EVENTS_PER_CALL."""
        names = [check_version(version) for version in (*versions.queued, *versions.others)]
        queues = [key for version in names for key in queue_keys(self._keys, version)]
        shared = [self._keys.refreshing(), self._keys.erased(), *queues]
        options = [*self._options, len(versions.queued), len(names), *names]
        first, ends = batch.first.tolist(), batch.ends
        keys: list[Any] = list(shared)
        args = list(options)
        events = 0
        for u, user_id in enumerate(batch.user_ids):
            start, erase = first[u], int(batch.erased[u])
            while start < first[u + 1] or erase:
                if events >= EVENTS_PER_CALL or len(keys) - len(shared) >= USERS_PER_CALL:
                    yield keys, args
                    keys, args, events = list(shared), list(options), 0
                # A user with more events than a call holds goes on in the next one, which must not erase it again.
                stop = min(first[u + 1], start + EVENTS_PER_CALL - events)
                keys.append(self._keys.history(user_id))
                args += (user_id, erase, batch.data[ends[start] : ends[stop]])
                events += stop - start
                start, erase = stop, 0
        if len(keys) > len(shared):
            yield keys, args


def _starts(sizes: Sequence[int]) -> NDArray[np.int64]:
    starts = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts


def _history(user_id: str, rows: Sequence[tuple[bytes, float]]) -> History:
    decoded = [unpack_member(member) for member, _ in rows]
    return History(
        user_id=user_id,
        item_ids=tuple(item_id for item_id, _ in decoded),
        event_types=tuple(event_type for _, event_type in decoded),
        event_times=tuple(int(score) for _, score in rows),
    )
