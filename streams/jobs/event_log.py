"""The log as training reads it: topics `user-events` and `items` up to their present end, or the histories in Redis.

Owns reading a topic whole and what then stands: no event from before its user's erasure, no event twice, no deleted
item. Records that break the contract are skipped and counted. Must not join a consumer group, commit, or train.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from freshet.records import Item, UserEvent
from processors.users.fold_events import EventRows, suspicious
from processors.validate import ContractViolation, check_deletion, check_event, check_item
from schemas.codec import Codec, DecodeError
from schemas.columns import EventColumns
from schemas.files import EVENT_SCHEMA
from store.histories import HistoryStore
from streams.errors import reason
from streams.kafka.batch import Message
from streams.kafka.ranges import PATIENCE_S, NothingCame, NoTopic, RangeReader
from streams.settings import Settings

Report = Callable[[int, int], None]
"""Called with records read and records there are."""

BATCH = 10_000


class LogError(ValueError):
    """There is nothing to read; the message says where, and what puts something there."""


@dataclass(frozen=True, slots=True)
class EventLog:
    """Events (`files.EVENT_SCHEMA`), in an order that is the same each time, and what was left out of them.

    `skipped`: records that break the contract, by reason. `erased`, `repeated`: good events that no longer count, or
    came before.
    """

    events: pa.Table
    skipped: Mapping[str, int] = field(default_factory=dict)
    erased: int = 0
    repeated: int = 0


@dataclass(frozen=True, slots=True)
class ItemLog:
    """The items that stand, by id, and records skipped because they break the contract, by reason."""

    items: list[Item]
    skipped: Mapping[str, int] = field(default_factory=dict)


def read_event_topic(settings: Settings, topic: str, codec: Codec, now_ms: int, report: Report) -> EventLog:
    """Every event of `topic` that stands. Raises `LogError` where there is none, `KafkaException` without a broker."""
    collected = _Events(codec, now_ms, settings.history.max_future_s)
    read_topic(settings, topic, collected.add, report)
    log = collected.log()
    if not log.events.num_rows:
        raise LogError(f"{topic} holds no events{_instead(log.skipped, log.erased)}; `freshet send events` sends some")
    return log


def read_item_topic(settings: Settings, topic: str, codec: Codec, now_ms: int, report: Report) -> ItemLog:
    """Every item of `topic` that stands, newest state each. Raises as `read_event_topic` does."""
    items: dict[str, Item] = {}
    skipped: Counter[str] = Counter()

    def add(messages: Sequence[Message]) -> None:
        for message in messages:
            try:
                if (value := message.value()) is None:
                    items.pop(check_deletion(message.key()), None)
                    continue
                item = codec.decode(Item, value)
                check_item(item, now_ms, settings.history.max_future_s, key=message.key())
            except (DecodeError, ContractViolation) as error:
                skipped[reason(error).value] += 1
                continue
            known = items.get(item.item_id)
            if known is None or item.event_time >= known.event_time:
                items[item.item_id] = item

    read_topic(settings, topic, add, report)
    if not items:
        raise LogError(f"{topic} holds no items{_instead(skipped, 0)}; `freshet send items` sends some")
    return ItemLog([items[item_id] for item_id in sorted(items)], skipped)


def read_histories(store: HistoryStore) -> EventLog:
    """Every user's newest events, as Redis holds them. Raises `LogError` where there are none, and redis errors."""
    histories = sorted(store.scan(), key=lambda history: history.user_id)
    columns: dict[str, list[Any]] = {
        "user_id": [history.user_id for history in histories for _ in history.item_ids],
        "item_id": [item_id for history in histories for item_id in history.item_ids],
        "event_type": [event_type for history in histories for event_type in history.event_types],
        "event_time": [event_time for history in histories for event_time in history.event_times],
    }
    rows = len(columns["user_id"])
    if not rows:
        raise LogError("Redis holds no histories; `freshet worker` makes them of the events it reads")
    return EventLog(pa.table({**columns, "event_id": [""] * rows, "value": [None] * rows}, schema=EVENT_SCHEMA))


def read_topic(
    settings: Settings,
    topic: str,
    take: Callable[[Sequence[Message]], None],
    report: Report,
    *,
    patience_s: float = PATIENCE_S,
) -> None:
    """Give `take` every record between the first one and the present end, those of a partition in their order.

    Raises `LogError` where there is no such topic or nothing comes for `patience_s`, and `KafkaException`.
    """
    with RangeReader(settings) as reader:
        try:
            ranges = reader.find(topic)
        except NoTopic as error:
            raise LogError(str(error)) from error
        total = sum(map(len, ranges))
        try:
            for messages in reader.batches(ranges, BATCH, patience_s=patience_s):
                take(messages)
                report(reader.passed, total)
        except NothingCame as error:
            raise LogError(f"{topic}: {error}") from error
        report(total, total)


class _Events:
    """Collects batches of `user-events`; what stands is decided at the end, when every erasure is known."""

    def __init__(self, codec: Codec, now_ms: int, max_future_s: float) -> None:
        self._columns = EventColumns(codec)
        self._now_ms, self._max_future_s = now_ms, max_future_s
        self._skipped: Counter[str] = Counter()
        self._batches: list[pa.RecordBatch] = []
        self._stood: list[NDArray[np.int64]] = []  # (3, R) each: partition, offset, Kafka's timestamp
        self._erasures: dict[str, list[tuple[int, int, int]]] = defaultdict(list)

    def add(self, messages: Sequence[Message]) -> None:
        """One batch: note erasures, decode, leave out what breaks the contract."""
        present = []
        for message in messages:
            if message.value() is not None:
                present.append(message)
                continue
            try:
                self._erasures[check_deletion(message.key())].append(_stood(message))
            except ContractViolation as error:
                self._skipped[reason(error).value] += 1
        if not present:
            return
        decoded = self._columns.decode([message.value() for message in present])
        self._skipped.update(reason(error).value for _, error in decoded.errors)
        stood = np.array([_stood(present[row]) for row in decoded.rows.tolist()], np.int64).reshape(-1, 3).T
        keys = pa.array([present[row].key() for row in decoded.rows.tolist()], pa.binary())
        rows = EventRows(decoded.columns, keys, stood[0], stood[1], decoded.rows)
        kept = np.setdiff1d(np.arange(len(rows)), self._refused(rows))
        self._batches.append(rows.columns.take(pa.array(kept)))
        self._stood.append(stood[:, kept])

    def _refused(self, rows: EventRows) -> NDArray[np.int64]:
        doubted = np.flatnonzero(suspicious(rows, self._now_ms, self._max_future_s))
        events, keys = rows.columns.take(pa.array(doubted)).to_pylist(), rows.keys.take(pa.array(doubted)).to_pylist()
        refused = []
        for row, event, key in zip(doubted.tolist(), events, keys, strict=True):
            try:
                check_event(UserEvent(**event), self._now_ms, self._max_future_s, key=key)
            except ContractViolation as error:
                self._skipped[reason(error).value] += 1
                refused.append(row)
        return np.array(refused, dtype=np.int64)

    def log(self) -> EventLog:
        """What stands, by partition and offset: batches come as partitions answer, a seed is to mean one training."""
        if not self._batches:
            return EventLog(EVENT_SCHEMA.empty_table(), self._skipped)
        stood = np.concatenate(self._stood, axis=1)
        order = np.lexsort((stood[1], stood[0]))
        table = pa.Table.from_batches(self._batches).take(pa.array(order)).cast(EVENT_SCHEMA)
        gone = self._erased(table, stood[:, order])
        standing = table.filter(pa.array(~gone))
        events = standing.filter(pa.array(first_of_each(standing)))
        return EventLog(events, self._skipped, int(gone.sum()), standing.num_rows - events.num_rows)

    def _erased(self, table: pa.Table, stood: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(R,) events from before an erasure: in its partition by offset, in another one (no key, or other partitions
        than today) by Kafka's time."""
        gone = np.zeros(table.num_rows, dtype=np.bool_)
        theirs = pc.is_in(table["user_id"], pa.array(list(self._erasures), pa.string()))
        rows = np.flatnonzero(theirs.to_numpy(zero_copy_only=False))
        users = table["user_id"].take(pa.array(rows)).to_pylist()
        for row, user_id, (partition, offset, timestamp) in zip(rows, users, stood[:, rows].T.tolist(), strict=True):
            gone[row] = any(
                offset < at if partition == where else timestamp <= when for where, at, when in self._erasures[user_id]
            )
        return gone


def first_of_each(table: pa.Table) -> NDArray[np.bool_]:
    """(R,) False for an event whose user and event id came before; without an id every event is one of its own."""
    first = np.ones(table.num_rows, dtype=np.bool_)
    named = np.flatnonzero(pc.not_equal(table["event_id"], "").to_numpy(zero_copy_only=False))
    if len(named):
        ids = table.select(["user_id", "event_id"]).take(pa.array(named)).append_column("row", pa.array(named))
        firsts = ids.group_by(["user_id", "event_id"]).aggregate([("row", "min")])["row_min"].to_numpy()
        first[named] = False
        first[firsts] = True
    return first


def _stood(message: Message) -> tuple[int, int, int]:
    return message.partition(), message.offset(), message.timestamp()[1]


def _instead(skipped: Mapping[str, int], erased: int) -> str:
    counted = skipped_by_reason(skipped)
    parts = [part for part in (counted, f"{erased:,} of erased users" if erased else "") if part]
    return f" ({'; '.join(parts)})" if parts else ""


def skipped_by_reason(skipped: Mapping[str, int]) -> str:
    """As in `3 records skipped: 2 undecodable, 1 bad_time`; empty where there are none."""
    if not skipped:
        return ""
    each = ", ".join(f"{count:,} {name}" for name, count in sorted(skipped.items(), key=lambda one: -one[1]))
    total = sum(skipped.values())
    return f"{total:,} record{'s' if total > 1 else ''} skipped: {each}"
