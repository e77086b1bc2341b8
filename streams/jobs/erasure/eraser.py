"""Erases users at once and whole, and says what was removed where: what `freshet erase` does.

Owns the order: 1. the null record on `user-events`, so that every reader of that log knows; 2. histories, marks and
watermark, as the lane does on reading it; 3. the features of all versions; 4. the topics; 5. dead letters. Each may be
done again. It needs no running worker, and bears one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from freshet.connect import keys_for
from processors.validate import check_deletion
from store.erasure_watermarks import Erasures, digest
from store.feature_writer import Deletion, FeatureWriter
from store.histories import HistoryStore, VersionsChanged
from store.refreshed_versions import RefreshedVersions
from store.scan import headers
from store.versions import Versions
from streams.jobs.erasure.dead_letter_sweep import sweep
from streams.kafka.erasure_notices import ErasureNotices
from streams.kafka.topics import Topics
from streams.wiring.resources import Resources

_DELIVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one user. `owed` is what was there again when all was done: repeat it.

    The user is named by digest (SHA-1 of the id), so that a receipt may be kept.
    """

    user_digest: str
    erased_ms: int
    events: int
    features: Sequence[str]
    tombstones: Sequence[str]
    remains: Sequence[str]
    owed: Sequence[str] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing is owed."""
        return not self.owed


@dataclass(frozen=True, slots=True)
class ErasureOutcome:
    """Receipts, and the dead letters that were removed for them all, by topic."""

    receipts: Sequence[Receipt]
    dead_letters: dict[str, int] = field(default_factory=dict)


class Eraser:
    """Erases users; blocks. Raises redis errors, `KafkaException` and `DeliveryFailed`: repeat it then."""

    def __init__(self, resources: Resources) -> None:
        settings = resources.settings
        self._resources = resources
        self._keys = keys_for(resources.redis, settings.key_prefix)
        self._store = HistoryStore(
            resources.redis, settings.key_prefix, length=settings.history.length, ttl_s=settings.redis.feature_ttl_s
        )
        self._refreshed = RefreshedVersions(resources.redis, settings.key_prefix, settings.version)
        self._writer = FeatureWriter(resources.redis, settings.key_prefix, ttl_s=settings.redis.feature_ttl_s)
        self._notices = ErasureNotices(settings, resources.producer, resources.codec)
        self._erasures = Erasures(resources.redis, settings.key_prefix)

    def erase(self, user_ids: Sequence[str]) -> ErasureOutcome:
        """Erase these users, whether anything is known of them or not."""
        names = list(dict.fromkeys(user_ids))
        found = self._found(names)
        timestamps = self._announce(names)
        versions = self._forget(timestamps)
        self._writer.delete_users(
            self._versions(), [Deletion(user_id, timestamp) for user_id, timestamp in timestamps.items()]
        )
        tombstones = self._notices.send(timestamps, versions)
        self._erasures.add_pending(timestamps)
        dead_letters = sweep(self._resources, timestamps)
        self._erasures.done(timestamps)
        left = self._found(names)
        receipts = [
            Receipt(
                digest(user_id),
                timestamps[user_id],
                *found[user_id],
                tombstones=tombstones,
                remains=self._remains(tombstones),
                owed=_owed(*left[user_id]),
            )
            for user_id in names
        ]
        return ErasureOutcome(receipts, dead_letters)

    def known(self, user_ids: Sequence[str]) -> dict[str, tuple[int, list[str]]]:
        """For a dry run: events kept and versions with features, by user."""
        return self._found(list(dict.fromkeys(user_ids)))

    def _found(self, user_ids: Sequence[str]) -> dict[str, tuple[int, list[str]]]:
        versions = self._versions()
        histories = self._store.load(user_ids)
        pairs = [(user_id, version) for user_id in user_ids for version in versions]
        there = headers(self._resources.redis, [self._keys.user(version, user_id) for user_id, version in pairs])
        features: dict[str, list[str]] = {user_id: [] for user_id in user_ids}
        for (user_id, version), header in zip(pairs, there, strict=True):
            if header is not None and not header.deleted:
                features[user_id].append(version)
        return {one.user_id: (len(one.item_ids), features[one.user_id]) for one in histories}

    def _versions(self) -> list[str]:
        known = Versions(self._resources.redis, self._resources.settings.key_prefix).names()
        return list(dict.fromkeys([*known, self._resources.settings.version]))

    def _announce(self, user_ids: Sequence[str]) -> dict[str, int]:
        timestamp, topic = self._resources.clock(), self._resources.topics.user_events
        sent = [self._resources.producer.send(topic, one.encode(), None, timestamp=timestamp) for one in user_ids]
        for future in sent:
            future.result(_DELIVERY_S)
        return dict.fromkeys(user_ids, timestamp)

    def _forget(self, timestamps: dict[str, int]) -> Any:
        versions = self._refreshed.fetch()
        while True:
            try:
                self._store.erase(timestamps, versions)
            except VersionsChanged:
                versions = self._refreshed.fetch()
            else:
                return versions

    def _remains(self, tombstones: Sequence[str]) -> list[str]:
        """What Kafka still holds, and until when."""
        events = self._resources.topics.user_events
        config = {topic.name: dict(topic.config) for topic in self._resources.topics.all()}
        days = int(config[events]["retention.ms"]) // 86_400_000
        own = self._resources.topics.user_features
        lag = int(config[own]["max.compaction.lag.ms"]) // 86_400_000
        features = [topic for topic in tombstones if topic != Topics(self._resources.settings).erasures]
        return [
            f"events on {events} until its retention ends ({days} days as made by freshet topics create)",
            f"older records on {', '.join(features)} until the cleaner has passed (within {lag + 1} days)",
        ]


def check_user(user_id: str) -> str:
    """`user_id`, if a user can be called so; raises `ContractViolation`."""
    return check_deletion(user_id.encode(errors="surrogateescape"))


def _owed(events: int, features: Sequence[str]) -> list[str]:
    owed = [f"{events} events in the history"] if events else []
    return owed + [f"features of version {version}" for version in features]
