"""Features, knowledge and deletions into Redis, newer wins.

Owns batching and the answers; the comparison itself runs on the server (`features.lua`). Must not know Kafka or Avro.
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
"""One call blocks the server, which shows in a ranker's p99: 250 items of 128 float16 take 0.9 ms, 500 take 1.7."""
SHAPE_MEMORY_S = 10.0
"""In a Cluster, the time after which a node that came back empty has the shapes of versions again."""

Stem = Callable[[str, int], str]
Place = tuple[str, str]
"""Version and id."""


class WriteResult(IntEnum):
    """What became of one write."""

    WRITTEN = 1
    """It is what rankers read now."""
    SAME = 0
    """It was there already: a retry or a replay."""
    OLDER = -1
    """Something newer stands there, and stays."""


_RESULTS = {one.value: one for one in WriteResult}


class ShapeMismatch(ValueError):
    """A vector's dims or dtype are not the version's: two models write into one version, which no retry mends."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """An item or user to forget; `event_time` in ms is when, and features of a later event time revive it."""

    id: str
    event_time: int
    source_offset: int = -1


class _Plan(NamedTuple):
    """Calls, and the row that each of their blobs is of, in their order."""

    calls: list[Call]
    rows: list[int]


class FeatureWriter:
    """Writes into the versions under one key prefix; thread-safe, and any call may be repeated after a Redis error.

    A write stays only if it is newer than what is there by `(event_time, tier, sequence)`: the sequence of an item is
    its source offset, of a user the computed time. There is one answer a record, in their order; a record that comes
    twice in one call is compared twice, in order.

    `dtype` is how vectors are stored, one a version. Users expire `ttl_s` after they were last written, items
    `item_ttl_s` and knowledge `knowledge_ttl_s` after; 0 is for ever, and their default, as a catalogue's old items are
    not its dead ones. Marks that deletions leave expire after `mark_ttl_s`, by default `ttl_s`. A write that is not
    newer than what is there prolongs nothing.

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
        self._shapes: dict[str, tuple[Shape | None, float]] = {}  # and when it was read

    def put_items(self, items: Sequence[ItemFeatures]) -> list[WriteResult]:
        """Write item vectors, each into its own version."""
        blobs = blob.encode_items(items, self._dtype)
        lacking = self._check_shapes(items)
        places = [(one.version, one.item_id) for one in items]
        results = self._send([self._plan(self._keys.item_stem, places, blobs, self._item_ttl_ms, indexed=True)])
        self._set_shapes(lacking)
        return results

    def put_users(self, users: Sequence[UserFeatures]) -> list[WriteResult]:
        """Write user vectors and behaviors, each into its own version."""
        blobs = blob.encode_users(users, self._dtype)
        lacking = self._check_shapes(users)
        places = [(one.version, one.user_id) for one in users]
        results = self._send([self._plan(self._keys.user_stem, places, blobs, self._ttl_ms)])
        self._set_shapes(lacking)
        return results

    def put_knowledge(self, version: str, knowledge: Sequence[ItemKnowledge]) -> list[WriteResult]:
        """Write what is known about items, for people and for `FeatureReader.knowledge`."""
        blobs = blob.encode_all_knowledge(knowledge)
        places = [(version, one.item_id) for one in knowledge]
        return self._send([self._plan(self._keys.knowledge_stem, places, blobs, self._knowledge_ttl_ms)])

    def delete_items(self, versions: str | Sequence[str], deletions: Sequence[Deletion]) -> list[WriteResult]:
        """Delete items, vectors and knowledge, from one version or from several at once.

        The answers are those of the first version. A version that is being deleted itself stays as it is.
        """
        knowledge = self._plan_marks(self._keys.knowledge_stem, versions, deletions)
        items = self._plan_marks(self._keys.item_stem, versions, deletions, indexed=True)
        return self._send([items, knowledge])[: len(deletions)]

    def delete_knowledge(self, versions: str | Sequence[str], deletions: Sequence[Deletion]) -> list[WriteResult]:
        """Delete knowledge alone; otherwise as `delete_items`."""
        return self._send([self._plan_marks(self._keys.knowledge_stem, versions, deletions)])[: len(deletions)]

    def delete_users(self, versions: str | Sequence[str], deletions: Sequence[Deletion]) -> list[WriteResult]:
        """Delete users' vectors and behaviors; otherwise as `delete_items`."""
        return self._send([self._plan_marks(self._keys.user_stem, versions, deletions)])[: len(deletions)]

    def _plan_marks(
        self, stem: Stem, versions: str | Sequence[str], deletions: Sequence[Deletion], *, indexed: bool = False
    ) -> _Plan:
        names = [versions] if isinstance(versions, str) else list(dict.fromkeys(versions))
        marks = [blob.encode_deletion(one.event_time, one.source_offset) for one in deletions]
        places = [(version, one.id) for version in names for one in deletions]
        return self._plan(stem, places, marks * len(names), self._item_ttl_ms, indexed=indexed)

    def _plan(
        self, stem: Stem, places: Sequence[Place], blobs: Sequence[bytes], ttl_ms: int, *, indexed: bool = False
    ) -> _Plan:
        """How to write each of `blobs` for its version and id: calls of one version and bucket, of few keys each."""
        keys = self._keys
        groups: dict[tuple[str, int], list[int]] = {}
        for row, (version, one) in enumerate(places):
            groups.setdefault((version, keys.bucket(one)), []).append(row)
        calls: list[Call] = []
        for (version, bucket), rows in groups.items():
            _check_version(version, rows[0])
            lead = stem(version, bucket)
            shared = [of(version, bucket) for of in (keys.bucket_shape, keys.items, keys.deleted, keys.retired)]
            settings = [ttl_ms, self._mark_ttl_ms, len(lead) if indexed else 0]
            for part in _parts(rows, blobs):
                names = [lead + places[row][1] for row in part]
                calls.append((shared + names, settings + [blobs[row] for row in part]))
        return _Plan(calls, list(chain.from_iterable(groups.values())))

    def _send(self, plans: Sequence[_Plan]) -> list[WriteResult]:
        """The answers of all plans, in one pipelined round trip, in the order of the rows of each."""
        try:
            answers = iter(
                library("features").call(self._redis, "put", [call for plan in plans for call in plan.calls])
            )
        except redis.ResponseError as error:
            raise _translated(error) from error
        results: list[WriteResult] = []
        for plan in plans:
            own = [WriteResult.SAME] * len(plan.rows)
            answered = chain.from_iterable(islice(answers, len(plan.calls)))
            for row, answer in zip(plan.rows, answered, strict=True):
                own[row] = _RESULTS[answer]
            results += own
        return results

    def _check_shapes(self, records: Sequence[ItemFeatures | UserFeatures]) -> dict[str, Shape]:
        """In a Cluster, hold the vectors of each version to the shape that readers go by; answers those that lack one.

        On a single server that key is the one that every write is checked against there.
        """
        lacking: dict[str, Shape] = {}
        for index, one in enumerate(records if self._keys.clustered else ()):
            known, read_at = self._shapes.get(one.version, (None, -math.inf))
            if time.monotonic() - read_at > SHAPE_MEMORY_S:
                _check_version(one.version, index)
                stored: Any = self._redis.get(self._keys.shape(one.version))
                known = Shape.parse(stored) if stored else None
                self._shapes[one.version] = known, time.monotonic()
            own = Shape(one.dims, self._dtype)
            _check_shape(own, known or lacking.setdefault(one.version, own))
        return lacking

    def _set_shapes(self, lacking: dict[str, Shape]) -> None:
        """Set the shapes of versions that had none, now that they have vectors; another writer's counts if first."""
        for version, own in lacking.items():
            stored: Any = self._redis.set(self._keys.shape(version), str(own), nx=True, get=True)
            known = Shape.parse(stored) if stored else own
            self._shapes[version] = known, time.monotonic()
            _check_shape(own, known)


def _parts(rows: Sequence[int], blobs: Sequence[bytes]) -> Iterator[list[int]]:
    """`rows` in parts of one call each."""
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
    """What the server-side function refused, by its own name."""
    if "FRESHET_SHAPE" in str(error):
        return ShapeMismatch(str(error).rpartition("FRESHET_SHAPE ")[2])
    if "FRESHET_RETIRED" in str(error):
        return VersionRetiring("a version that is written is being deleted; see `freshet versions list`")
    return error
