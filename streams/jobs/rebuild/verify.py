"""Compares Redis with the log, key by key, and says where they differ.

Owns the comparison. Must not write. What differs is looked at again, with the log read on, until it stays the same:
what is just being written is no difference.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from freshet.connect import keys_for
from store.scan import Pace, nodes, scan
from streams.jobs.rebuild.expected import ITEM, KNOWLEDGE, USER, ExpectedHistories, Form, Newest, Standing, View
from streams.wiring.resources import Resources

MISSING, OLDER, NEWER, DIFFERENT, EXTRA = "missing", "older", "newer", "different", "extra"
"""Redis lacks it · has an older state than the log · a newer one · another one of the same rank · what the log has not
(of a history: events that the log has not, or not any more)."""
ROUNDS, PAUSE_S = 5, 1.0
_TOGETHER = 500
_EXAMPLES = 10
Progress = Callable[[str, int, int], None]


@dataclass
class Report:
    """What was compared, how it differs (by kind of entity and of difference), and what is no difference."""

    version: str
    compared: Counter[str] = field(default_factory=Counter)
    differences: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    expired: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """How many keys differ."""
        return sum(self.differences.values())

    def add(self, kind: str, differences: dict[str, str]) -> None:
        """Count what is left of one kind: id to difference."""
        for one, how in differences.items():
            self.differences[kind, how] += 1
            shown = self.examples.setdefault((kind, how), [])
            if len(shown) < _EXAMPLES:
                shown.append(one)


def verify(
    resources: Resources,
    *,
    progress: Progress = lambda _name, _done, _all: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Report:
    """Compare all of a version's entities, and the histories. Raises `NoTopic`, `KafkaException`, redis errors."""
    settings, topics = resources.settings, resources.topics
    report = Report(settings.version)
    sides: list[_Side] = [
        _Entities(resources, "item", "i", topics.item_features, ITEM, settings.redis.item_ttl_s),
        _Entities(resources, "user", "u", topics.user_features, USER, settings.redis.feature_ttl_s),
        _Entities(resources, "knowledge", "k", topics.item_knowledge, KNOWLEDGE, settings.redis.knowledge_ttl_s),
        _Histories(resources),
    ]
    for side in sides:
        side.view.advance(lambda done, total, name=side.name: progress(name, done, total))  # type: ignore[misc]
        differing = side.differing(None, report)
        for _ in range(ROUNDS):
            if not differing:
                break
            sleep(PAUSE_S)
            changed = side.view.advance()
            again = side.differing(sorted(differing.keys() | changed), report)
            if again == differing and not changed:
                break
            differing = again
        report.add(side.name, differing)
        report.compared[side.name] = side.size
    return report


class _Side(ABC):
    """One kind of entity on both sides."""

    name: str
    view: View

    @property
    @abstractmethod
    def size(self) -> int:
        """How many there are in the log."""

    @abstractmethod
    def differing(self, ids: Sequence[str] | None, report: Report) -> dict[str, str]:
        """How each of `ids` differs that does; None: all, and what only Redis has."""


class _Entities(_Side):
    """Features or knowledge of the version."""

    def __init__(self, resources: Resources, name: str, letter: str, topic: str, form: Form, ttl_s: int) -> None:
        settings = resources.settings
        self.name = name
        self._redis: Any = resources.redis
        self._keys = keys_for(resources.redis, settings.key_prefix)
        self._version, self._clock, self._ttl_ms = settings.version, resources.clock, 1_000 * ttl_s
        self._newest = Newest(resources.codec, form, settings.version, settings.vectors.dtype)
        self._stem = f"{settings.key_prefix}:{settings.version}:{letter}:"
        self._key = {"i": self._keys.item, "u": self._keys.user, "k": self._keys.knowledge}[letter]
        self.view = View(settings, topic, self._newest)

    @property
    def size(self) -> int:
        return len(self._newest.standing)

    def differing(self, ids: Sequence[str] | None, report: Report) -> dict[str, str]:
        wanted = self._newest.standing
        found: dict[str, str] = {}
        for some in _chunks(list(wanted) if ids is None else ids):
            blobs = self._get([self._key(self._version, one) for one in some])
            for one, blob in zip(some, blobs, strict=True):
                if how := self._difference(wanted.get(one), blob, report, first=ids is None):
                    found[one] = how
        if ids is None:
            for one in self._only_in_redis():
                found[one] = EXTRA
        return found

    def _difference(self, wanted: Standing | None, blob: bytes | None, report: Report, *, first: bool) -> str:
        there = None if blob is None else Standing.of(blob)
        if there is None or there.deleted:
            if wanted is None or wanted.deleted or (there is not None and there.rank > wanted.rank):
                return ""  # a mark of a deletion goes with time, on both sides
            if there is None and self._ttl_ms and wanted.written_ms + self._ttl_ms <= self._clock():
                report.expired[self.name] += first
                return ""
            return MISSING
        if wanted is None or (wanted.deleted and wanted.rank > there.rank):
            return EXTRA
        if there.rank != wanted.rank:
            return OLDER if there.rank < wanted.rank else NEWER
        return "" if there.digest == wanted.digest else DIFFERENT

    def _get(self, keys: Sequence[str]) -> list[bytes | None]:
        pipeline = self._redis.pipeline(transaction=False)
        for key in keys:
            pipeline.get(key)
        found: list[bytes | None] = pipeline.execute()
        return found

    def _only_in_redis(self) -> Iterator[str]:
        """Ids that live in Redis and not in the log; what is deleted on one side and gone on the other is the same."""
        for node in nodes(self._redis):
            for keys in scan(self._redis, self._stem + "*", Pace(), node=node):
                ids = [self._id(key.decode()) for key in keys]
                unknown = [one for one in ids if one not in self._newest.standing]
                blobs = self._get([self._key(self._version, one) for one in unknown])
                found = zip(unknown, blobs, strict=True)
                yield from (one for one, blob in found if blob and not Standing.of(blob).deleted)

    def _id(self, key: str) -> str:
        rest = key[len(self._stem) :]
        return rest.partition(":")[2] if self._keys.clustered else rest


class _Histories(_Side):
    """The newest events of all users."""

    name = "history"

    def __init__(self, resources: Resources) -> None:
        settings = resources.settings
        self._redis: Any = resources.redis
        self._keys = keys_for(resources.redis, settings.key_prefix)
        self._clock, self._ttl_ms = resources.clock, 1_000 * settings.redis.feature_ttl_s
        self._length = settings.history.length
        self._log = ExpectedHistories(resources)
        self.view = View(settings, resources.topics.user_events, self._log)

    @property
    def size(self) -> int:
        return len(self._log.members)

    def differing(self, ids: Sequence[str] | None, report: Report) -> dict[str, str]:
        found: dict[str, str] = {}
        for some in _chunks(list(self._log.members) if ids is None else ids):
            pipeline = self._redis.pipeline(transaction=False)
            for user_id in some:
                pipeline.zrange(self._keys.history(user_id), 0, -1, withscores=True)
            for user_id, rows in zip(some, pipeline.execute(), strict=True):
                there = {member: int(score) for member, score in rows}
                if how := self._difference(user_id, there, report, first=ids is None):
                    found[user_id] = how
        if ids is None and not self.view.clipped:  # else a user's events may be older than the log
            for user_id in self._only_in_redis():
                found[user_id] = EXTRA
        return found

    def _difference(self, user_id: str, there: dict[bytes, int], report: Report, *, first: bool) -> str:
        wanted = dict(self._log.newest(user_id))
        if there == wanted:
            return ""
        written_ms = self._log.written_ms.get(user_id.encode(), 0)
        if not there and written_ms and written_ms + self._ttl_ms <= self._clock():
            report.expired[self.name] += first
            return ""
        if lacking := wanted.keys() - there.keys():
            full = len(there) >= self._length and max(wanted[one] for one in lacking) <= min(there.values())
            if not full:
                return MISSING
        more = there.keys() - wanted.keys()
        oldest = min(wanted.values(), default=0)
        if self.view.clipped and all(there[one] <= oldest for one in more):
            return ""  # from before the log begins
        return EXTRA if more else DIFFERENT

    def _only_in_redis(self) -> Iterator[str]:
        stem = self._keys.history("")
        for node in nodes(self._redis):
            for keys in scan(self._redis, stem + "*", Pace(), node=node):
                yield from (user_id for key in keys if (user_id := key.decode()[len(stem) :]) not in self._log.members)


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _TOGETHER):
        yield list(ids[start : start + _TOGETHER])
