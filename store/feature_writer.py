"""Writes features, knowledge and deletions into Redis; newer wins.

Owns batching and results; the comparison itself runs on the server (`lua/features.lua`). Must not know Kafka or Avro.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain, islice
from typing import Any, NamedTuple

import redis

from freshet import blob
from freshet.blob import BlobError, Shape
from freshet.connect import Client, keys_for
from freshet.layout import check_version
from freshet.records import ItemFeatures, ItemKnowledge, UserFeatures
from freshet.vectors import DTYPES
from store.functions import Call, library
from store.versions import VersionRetiring

KEYS_PER_CALL, BYTES_PER_CALL = 250, 262_144
"""A call blocks the server, which shows in a ranker's p99: 250 items of 128 float16 take 0.9 ms, 500 take 1.7 ms."""
SHAPE_MEMORY_S = 10.0
"""How long the writer trusts a shape it has read: a Cluster node that comes back empty has it again after that."""

Stem = Callable[[str, int], str]
Entity = tuple[str, str]
"""Version and id."""


class WriteResult(IntEnum):
    """The outcome of one write."""

    WRITTEN = 1
    """Rankers read it now."""
    SAME = 0
    """It was there already: a retry or a replay."""
    OLDER = -1
    """Something newer is stored, and stays."""


_RESULTS = {result.value: result for result in WriteResult}


class ShapeMismatch(ValueError):
    """A vector's dims or dtype differ from the version's: two models write into one version, and no retry helps."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """An item or user to delete; features of an event time later than `event_time` (milliseconds) revive it."""

    id: str
    event_time: int
    source_offset: int = -1


class _Plan(NamedTuple):
    """Server-side calls, and for each of their blobs, in order, the row of the input it belongs to."""

    calls: list[Call]
    rows: list[int]


class FeatureWriter:
    """Writes into the versions under one key prefix; thread-safe, and any call may be repeated after a Redis error.

    A write stays only if it is newer than what is stored by `(event_time, tier, sequence)`: the sequence of an item is
    its source offset, of a user the computed time. Each record has one result, in the order of the input; a record that
    comes twice in one call is compared twice, in order.

    `dtype` is how vectors are stored, one per version. Users expire `ttl_s` after their last write, items `item_ttl_s`
    and knowledge `knowledge_ttl_s` after theirs; 0, the default of these two, is forever, as an old item of a catalogue
    need not be a dead one. The tombstones of deletions expire after `mark_ttl_s`, by default `ttl_s`. A write that is
    not newer than what is stored extends no lifetime.

    Raises `BlobError` (with `.index`) before anything is written if one record cannot be stored, `ShapeMismatch`,
    `VersionRetiring` for a version that is being deleted, and redis-py's errors.
    """

    def __init__(
        self,
        client: Client,
        prefix: str = "f",
        *,
        dtype: str = "float16",
        ttl_s: int = 30 * 86_400,
        item_ttl_s: int = 0,
        knowledge_ttl_s: int = 0,
        mark_ttl_s: int | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}, wanted one of {', '.join(DTYPES)}")
        mark_ttl_s = ttl_s if mark_ttl_s is None else mark_ttl_s
        for name, value, least in (
            ("ttl_s", ttl_s, 1),
            ("item_ttl_s", item_ttl_s, 0),
            ("knowledge_ttl_s", knowledge_ttl_s, 0),
            ("mark_ttl_s", mark_ttl_s, 1),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}, wanted a number of seconds from {least}")
        self._redis = client
        self._keys = keys_for(client, prefix)
        self._dtype = dtype
        self._ttl_ms, self._mark_ttl_ms = 1_000 * ttl_s, 1_000 * mark_ttl_s
        self._item_ttl_ms, self._knowledge_ttl_ms = 1_000 * item_ttl_s, 1_000 * knowledge_ttl_s
        self._shapes: dict[str, tuple[Shape | None, float]] = {}  # by version, with the monotonic time of the read

    def put_items(self, items: Sequence[ItemFeatures]) -> list[WriteResult]:
        """Write item vectors, each into its own version."""
        blobs = blob.encode_items(items, self._dtype)
        new_shapes = self._check_shapes(items)
        entities = [(item.version, item.item_id) for item in items]
        results = self._send([self._plan(self._keys.item_stem, entities, blobs, self._item_ttl_ms, indexed=True)])
        self._set_shapes(new_shapes)
        return results

    def put_users(self, users: Sequence[UserFeatures]) -> list[WriteResult]:
        """Write user vectors and behaviors, each into its own version."""
        blobs = blob.encode_users(users, self._dtype)
        new_shapes = self._check_shapes(users)
        entities = [(user.version, user.user_id) for user in users]
        results = self._send([self._plan(self._keys.user_stem, entities, blobs, self._ttl_ms)])
        self._set_shapes(new_shapes)
        return results

    def put_knowledge(self, version: str, knowledge: Sequence[ItemKnowledge]) -> list[WriteResult]:
        """Write what is known about items, for people and for `FeatureReader.knowledge`."""
        blobs = blob.encode_all_knowledge(knowledge)
        entities = [(version, record.item_id) for record in knowledge]
        return self._send([self._plan(self._keys.knowledge_stem, entities, blobs, self._knowledge_ttl_ms)])

    def delete_items(self, versions: str | Sequence[str], deletions: Sequence[Deletion]) -> list[WriteResult]:
        """Delete items, vectors and knowledge, from one version or from several at once.

        The results are those of the first version. A version that is being deleted itself is left alone.
        """
        knowledge = self._plan_tombstones(self._keys.knowledge_stem, versions, deletions)
        items = self._plan_tombstones(self._keys.item_stem, versions, deletions, indexed=True)
        return self._send([items, knowledge])[: len(deletions)]

    def delete_knowledge(self, versions: str | Sequence[str], deletions: Sequence[Deletion]) -> list[WriteResult]:
        """Delete knowledge alone; otherwise as `delete_items`."""
        return self._send([self._plan_tombstones(self._keys.knowledge_stem, versions, deletions)])[: len(deletions)]

    def delete_users(self, versions: str | Sequence[str], deletions: Sequence[Deletion]) -> list[WriteResult]:
        """Delete users' vectors and behaviors; otherwise as `delete_items`."""
        return self._send([self._plan_tombstones(self._keys.user_stem, versions, deletions)])[: len(deletions)]

    def _plan_tombstones(
        self, stem: Stem, versions: str | Sequence[str], deletions: Sequence[Deletion], *, indexed: bool = False
    ) -> _Plan:
        names = [versions] if isinstance(versions, str) else list(dict.fromkeys(versions))
        tombstones = [blob.encode_deletion(deletion.event_time, deletion.source_offset) for deletion in deletions]
        entities = [(version, deletion.id) for version in names for deletion in deletions]
        # Version by version, so that the first version's results are the first ones.
        return self._plan(stem, entities, tombstones * len(names), self._item_ttl_ms, indexed=indexed)

    def _plan(
        self, stem: Stem, entities: Sequence[Entity], blobs: Sequence[bytes], ttl_ms: int, *, indexed: bool = False
    ) -> _Plan:
        """How to write each of `blobs` for its version and id: calls of one version and bucket, of few keys each.

        In a Cluster the keys of a call must share a slot, and a bucket is what shares one.
        """
        keys = self._keys
        groups: dict[tuple[str, int], list[int]] = {}
        for row, (version, entity_id) in enumerate(entities):
            groups.setdefault((version, keys.bucket(entity_id)), []).append(row)
        calls: list[Call] = []
        for (version, bucket), rows in groups.items():
            _check_version(version, rows[0])
            lead = stem(version, bucket)
            shared = [of(version, bucket) for of in (keys.bucket_shape, keys.items, keys.deleted, keys.retired)]
            settings = [ttl_ms, self._mark_ttl_ms, len(lead) if indexed else 0]
            # The function strips the lead of an item key to get the id for its indexes; 0: keep none.
            for part in _parts(rows, blobs):
                names = [lead + entities[row][1] for row in part]
                calls.append((shared + names, settings + [blobs[row] for row in part]))
        return _Plan(calls, list(chain.from_iterable(groups.values())))

    def _send(self, plans: Sequence[_Plan]) -> list[WriteResult]:
        """The results of all plans in one pipelined round trip, each plan's in the order of its rows."""
        try:
            answers = iter(
                library("features").call(self._redis, "put", [call for plan in plans for call in plan.calls])
            )
        except redis.ResponseError as error:
            raise _translated(error) from error
        results: list[WriteResult] = []
        for plan in plans:
            # Calls are grouped by bucket; back to the order of the input.
            own = [WriteResult.SAME] * len(plan.rows)
            answered = chain.from_iterable(islice(answers, len(plan.calls)))
            for row, answer in zip(plan.rows, answered, strict=True):
                own[row] = _RESULTS[answer]
            results += own
        return results

    def _check_shapes(self, records: Sequence[ItemFeatures | UserFeatures]) -> dict[str, Shape]:
        """In a Cluster, check vectors against the shape that readers see; returns the shapes of versions without one.

        Each bucket has a shape of its own, which the server checks; this one is the version's. On a single server both
        are one key, and there is nothing to do here.
        """
        new_shapes: dict[str, Shape] = {}
        for index, record in enumerate(records if self._keys.clustered else ()):
            known, read_at = self._shapes.get(record.version, (None, -math.inf))
            if time.monotonic() - read_at > SHAPE_MEMORY_S:
                _check_version(record.version, index)
                stored: Any = self._redis.get(self._keys.shape(record.version))
                known = Shape.parse(stored) if stored else None
                self._shapes[record.version] = known, time.monotonic()
            own = Shape(record.dims, self._dtype)
            _check_shape(own, known or new_shapes.setdefault(record.version, own))
        return new_shapes

    def _set_shapes(self, new_shapes: dict[str, Shape]) -> None:
        """Set the shapes of versions that had none, now that they have vectors; of two writers the first one wins."""
        for version, own in new_shapes.items():
            # NX with GET (Redis 7) sets it or returns the one that another writer has set, in one step.
            stored: Any = self._redis.set(self._keys.shape(version), str(own), nx=True, get=True)
            known = Shape.parse(stored) if stored else own
            self._shapes[version] = known, time.monotonic()
            _check_shape(own, known)


def _parts(rows: Sequence[int], blobs: Sequence[bytes]) -> Iterator[list[int]]:
    """`rows` split into parts of one call each."""
    part: list[int] = []
    size = 0
    for row in rows:
        if part and (len(part) == KEYS_PER_CALL or size + len(blobs[row]) > BYTES_PER_CALL):
            yield part
            part, size = [], 0
        part.append(row)
        size += len(blobs[row])
    yield part


def _check_shape(own: Shape, known: Shape) -> None:
    if own != known:
        raise ShapeMismatch(f"the version has {known}, a vector has {own}")


def _check_version(version: str, index: int) -> None:
    try:
        check_version(version)
    except ValueError as error:
        raise BlobError(str(error), index) from error


def _translated(error: redis.ResponseError) -> Exception:
    """The exception for an error code of the server-side function."""
    if "FRESHET_SHAPE" in str(error):
        return ShapeMismatch(str(error).rpartition("FRESHET_SHAPE ")[2])
    if "FRESHET_RETIRED" in str(error):
        return VersionRetiring("a version that is written is being deleted; see `freshet versions list`")
    return error
