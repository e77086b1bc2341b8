"""The sink: knowledge and features from their topics into Redis, newer wins.

Owns which topic means what. Must not compute anything, nor compare ages (`store.feature_writer` does, on the server).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from freshet.blob import BlobError
from freshet.records import ItemFeatures, ItemKnowledge, UserFeatures
from processors.validate import ContractViolation, check_deletion
from schemas.codec import Codec, DecodeError
from store.feature_writer import Deletion, FeatureWriter, WriteResult
from store.knowledge_cache import KnowledgeCache
from store.versions import Versions
from streams.consumers.batch_consumer import BatchConsumer
from streams.errors import Reason, reason
from streams.kafka.batch import Batch, Rejected
from streams.kafka.consumer import Subscription
from streams.wiring.resources import Resources

NAME = "sink"
R = TypeVar("R", ItemFeatures, ItemKnowledge, UserFeatures)
Put = Callable[[Sequence[Any]], list[WriteResult]]
Delete = Callable[[Sequence[str], Sequence[Deletion]], list[WriteResult]]


class WrongVersion(ValueError):
    """A record of one feature version in a topic of another: written, it would mix two vector spaces."""

    reason = Reason.BAD_PAYLOAD


@dataclass(frozen=True, slots=True)
class FeatureKind(Generic[R]):
    """What one topic holds and where it goes."""

    name: str
    record: type[R]
    id: Callable[[R], str]
    put: Put
    delete: Delete


class SinkLane(BatchConsumer):
    """The topics of one feature version to Redis; a null value deletes."""

    def __init__(self, subscription: Subscription, resources: Resources) -> None:
        super().__init__(subscription, resources, SinkHandler(resources))


class SinkHandler:
    """One batch: decode, refuse what is not this version's, write by kind; see `streams.kafka.batch.Handler`."""

    def __init__(self, resources: Resources) -> None:
        settings, topics = resources.settings, resources.topics
        writer = self._writer = FeatureWriter(
            resources.redis,
            settings.key_prefix,
            dtype=settings.vectors.dtype,
            ttl_s=settings.redis.feature_ttl_s,
            item_ttl_s=settings.redis.item_ttl_s,
            knowledge_ttl_s=settings.redis.knowledge_ttl_s,
        )
        self._versions = Versions(resources.redis, settings.key_prefix)
        self._cache = KnowledgeCache(resources.redis, settings.key_prefix)
        self._resources = resources
        self._codec: Codec = resources.codec
        self._version = settings.version
        self.kinds: Mapping[str, FeatureKind[Any]] = {
            topics.item_features: FeatureKind("item", ItemFeatures, _item_id, writer.put_items, writer.delete_items),
            topics.user_features: FeatureKind("user", UserFeatures, _user_id, writer.put_users, writer.delete_users),
            topics.item_knowledge: FeatureKind(
                "knowledge",
                ItemKnowledge,
                _item_id,
                self._put_knowledge,
                writer.delete_knowledge,
            ),
        }

    def _put_knowledge(self, records: Sequence[ItemKnowledge]) -> list[WriteResult]:
        """Knowledge for its readers and for the distilling lane's cache: reading the topic again makes both anew.

        All versions share the topic, and each record goes to the version it was made for.
        """
        results = [WriteResult.SAME] * len(records)
        by_version: dict[str, list[int]] = {}
        for index, one in enumerate(records):
            by_version.setdefault(one.version or self._version, []).append(index)
        for version, indexes in by_version.items():
            try:
                written = self._writer.put_knowledge(version, [records[index] for index in indexes])
            except BlobError as error:
                raise BlobError(str(error), indexes[error.index]) from error
            for index, result in zip(indexes, written, strict=True):
                results[index] = result
        self._cache.put(records)
        return results

    def write(self, batch: Batch) -> Sequence[Rejected]:
        """Write the batch's records and deletions; answers the records that can never be written."""
        rejected: list[Rejected] = []
        by_topic: dict[str, list[int]] = {}
        for row, (topic, _) in enumerate(batch.partitions):
            by_topic.setdefault(topic, []).append(row)
        for topic, rows in by_topic.items():
            self._write_kind(self.kinds[topic], batch, rows, rejected)
        return rejected

    def _write_kind(self, kind: FeatureKind[Any], batch: Batch, rows: Sequence[int], rejected: list[Rejected]) -> None:
        records: dict[int, Any] = {}
        deletions: list[Deletion] = []
        for row in rows:  # whatever comes first: of two records of one key in one batch the newer wins all the same
            message = batch.messages[row]
            value = message.value()
            try:
                if value is None:
                    deletions.append(Deletion(check_deletion(message.key()), _timestamp(message), batch.offsets[row]))
                else:
                    records[row] = self._checked(kind, message.key(), self._codec.decode(kind.record, value))
            except (DecodeError, ContractViolation, WrongVersion) as error:
                rejected.append(Rejected(row, reason(error), f"{NAME}/decode", error))
        for results, outcome in (
            (self._put(kind, records, rejected), "done"),
            (self._delete(kind, deletions), "deleted"),
        ):
            self._count(kind, results, outcome)

    def _delete(self, kind: FeatureKind[Any], deletions: Sequence[Deletion]) -> list[WriteResult]:
        """Delete from every version that is known now; the answers are those of our own."""
        if not deletions:
            return []
        return kind.delete([self._version, *self._versions.names()], deletions)

    def _checked(self, kind: FeatureKind[Any], key: bytes | None, record: Any) -> Any:
        """`record`, if it is its key's and of this version."""
        if key != kind.id(record).encode():
            raise ContractViolation("key_mismatch", f"the record's key is {key!r}, its id {kind.id(record)!r}")
        if not isinstance(record, ItemKnowledge) and record.version != self._version:
            raise WrongVersion(f"a record of version {record.version!r} in a topic of version {self._version!r}")
        return record

    def _put(self, kind: FeatureKind[Any], records: dict[int, Any], rejected: list[Rejected]) -> list[WriteResult]:
        """Write all of `records` but those that have no stored form, whose rows join the rejected."""
        while records:
            rows = list(records)
            try:
                results = kind.put(list(records.values()))
            except BlobError as error:
                rejected.append(Rejected(rows[error.index], Reason.BAD_PAYLOAD, f"{NAME}/write", error))
                del records[rows[error.index]]
            else:
                self._observe(kind.name, records.values(), results)
                return results
        return []

    def _observe(self, kind: str, records: Any, results: Sequence[WriteResult]) -> None:
        """How old features are when rankers can first read them."""
        metrics, now_ms = self._resources.metrics, self._resources.clock()
        for record, result in zip(records, results, strict=True):
            if result is WriteResult.WRITTEN:
                freshness_s = max(0.0, (now_ms - record.event_time) / 1_000)
                metrics.freshness.labels(lane=NAME).observe(freshness_s)
                if (tier := getattr(record, "tier", None)) is not None:
                    metrics.feature_freshness.labels(kind, str(tier), record.version).observe(freshness_s)

    def _count(self, kind: FeatureKind[Any], results: Sequence[WriteResult], outcome: str) -> None:
        metrics = self._resources.metrics
        for answer in WriteResult:
            if count := results.count(answer):
                metrics.sink_writes.labels(kind=kind.name, result=answer.name.lower()).inc(count)
                label = "older" if answer is WriteResult.OLDER else outcome
                metrics.records.labels(lane=NAME, outcome=label).inc(count)


def _item_id(record: ItemFeatures | ItemKnowledge) -> str:
    return record.item_id


def _user_id(record: UserFeatures) -> str:
    return record.user_id


def _timestamp(message: Any) -> int:
    return max(0, int(message.timestamp()[1]))
