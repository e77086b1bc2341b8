"""The lane user-events: events into histories, and their users queued in every version that is refreshed.

The lane belongs to no version: the workers of all share its consumer group, and histories are there once.

Owns what a batch of events means. Must not consume or acknowledge (`streams.consumers.batch_consumer`), nor lay out a
history (`store.histories`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from freshet.records import UserEvent
from processors.users.fold_events import ErasedUser, EventRows, fold, suspicious
from processors.validate import ContractViolation, check_deletion, check_event
from schemas.columns import EventColumns
from store.erasure_watermarks import Erasures
from store.histories import HistoryBatch, HistoryStore, QueuedVersions, VersionsChanged
from store.refresh_queue import RefreshPolicy
from store.refreshed_versions import RefreshedVersions
from streams.consumers.batch_consumer import BatchConsumer
from streams.errors import reason
from streams.kafka.batch import Batch, Rejected
from streams.kafka.consumer import Subscription
from streams.kafka.erasure_notices import ErasureNotices
from streams.wiring.resources import Resources

NAME = "user-events"


class UserEventsLane(BatchConsumer):
    """Topic `user-events` to Redis; a null value erases the user."""

    def __init__(self, subscription: Subscription, resources: Resources) -> None:
        super().__init__(subscription, resources, UserEventsHandler(resources))


class Histories(Protocol):
    """Where histories go: `store.histories.HistoryStore`, or what a rebuild compares it with."""

    def append(self, batch: HistoryBatch, versions: QueuedVersions = ...) -> int: ...


class UserEventsHandler:
    """One batch: decode by the column, refuse what breaks the contract, fold, write; see `streams.kafka.batch.Handler`.

    `replaying`: histories alone, from a log whose consequences are known; nobody is queued, nothing is sent to Kafka.
    `store` takes the place of Redis.
    """

    def __init__(self, resources: Resources, *, replaying: bool = False, store: Histories | None = None) -> None:
        settings = resources.settings
        self._clock = resources.clock
        self._records = resources.metrics.records
        self._max_future_s = settings.history.max_future_s
        self._columns = EventColumns(resources.codec)
        self._resources = resources
        self._replaying = replaying
        self._store: Histories = store or HistoryStore(
            resources.redis,
            settings.key_prefix,
            length=settings.history.length,
            ttl_s=settings.redis.feature_ttl_s,
            policy=RefreshPolicy.of(settings.refresh),
        )
        self._versions = RefreshedVersions(resources.redis, settings.key_prefix, settings.version)
        # A replay sends nothing, and needs no producer for it.
        self._notices = None if replaying else ErasureNotices(settings, resources.producer, resources.codec)
        self._owed = Erasures(resources.redis, settings.key_prefix)

    def write(self, batch: Batch) -> Sequence[Rejected]:
        """Write the batch's histories and erasures; answers the records that can never be written."""
        values: list[bytes | None] = [message.value() for message in batch.messages]
        present = [row for row, value in enumerate(values) if value is not None]
        erasures, rejected = self._erasures(batch, [row for row, value in enumerate(values) if value is None])
        decoded = self._columns.decode([value for value in values if value is not None])
        batch_rows = np.array(present, dtype=np.int64)
        rejected += [Rejected(present[row], reason(error), f"{NAME}/decode", error) for row, error in decoded.errors]
        rows = _rows(batch, decoded.columns, batch_rows[decoded.rows])
        doubted = np.flatnonzero(suspicious(rows, self._clock(), self._max_future_s))
        if len(doubted):
            refused = self._refused(rows, doubted)
            rejected += refused.values()
            rows = rows.take(np.setdiff1d(np.arange(len(rows)), np.array(list(refused), dtype=np.int64)))
        self._append(fold(rows, erasures))
        if erasures:
            self._announce({user_id: erasure.erased_ms for user_id, erasure in erasures.items()})
        self._records.labels(lane=NAME, outcome="done").inc(len(rows))
        self._records.labels(lane=NAME, outcome="deleted").inc(len(erasures))
        return rejected

    def _append(self, folded: HistoryBatch) -> None:
        versions = self._versions.fetch() if any(folded.erased) else self._versions.current()
        while True:
            if self._replaying:
                versions = QueuedVersions(others=(*versions.queued, *versions.others))
            try:
                self._store.append(folded, versions)
            except VersionsChanged:
                versions = self._versions.fetch()
            else:
                return

    def _announce(self, timestamps: Mapping[str, int]) -> None:
        """Put the erasures on the topics, confirmed, and on the list of the dead-letter sweep; may be repeated."""
        if self._notices is None:
            return
        self._notices.send(timestamps, self._versions.current())
        self._owed.add_pending(timestamps)

    def _erasures(self, batch: Batch, rows: list[int]) -> tuple[dict[str, ErasedUser], list[Rejected]]:
        """Each erased user's last erasure in the batch, and the null values that name nobody."""
        erasures: dict[str, ErasedUser] = {}
        rejected = []
        for row in rows:
            try:
                message = batch.messages[row]
                # Of no record Freshet knows more than Kafka does: when it was made.
                timestamp = min(max(1, message.timestamp()[1]), self._clock())
                erasures[check_deletion(message.key())] = ErasedUser(row, timestamp)
            except ContractViolation as error:
                rejected.append(Rejected(row, reason(error), f"{NAME}/decode", error))
        return erasures, rejected

    def _refused(self, rows: EventRows, doubted: NDArray[np.int64]) -> dict[int, Rejected]:
        """Those of the doubted rows that do break the contract, by row."""
        refused = {}
        index = pa.array(doubted)
        events, keys = rows.columns.take(index).to_pylist(), rows.keys.take(index).to_pylist()
        now_ms = self._clock()
        for row, event, key in zip(doubted.tolist(), events, keys, strict=True):
            try:
                check_event(UserEvent(**event), now_ms, self._max_future_s, key=key)
            except ContractViolation as error:
                refused[row] = Rejected(int(rows.batch_rows[row]), reason(error), f"{NAME}/validate", error)
        return refused


def _rows(batch: Batch, columns: pa.RecordBatch, batch_rows: NDArray[np.int64]) -> EventRows:
    kept = [batch.messages[row] for row in batch_rows.tolist()] if len(batch_rows) < len(batch) else batch.messages
    partitions = np.fromiter((partition for _, partition in batch.partitions), np.int64, len(batch))
    return EventRows(
        columns=columns,
        keys=pa.array([message.key() for message in kept], pa.binary()),
        partitions=partitions[batch_rows],
        offsets=np.array(batch.offsets, dtype=np.int64)[batch_rows],
        batch_rows=batch_rows,
    )
