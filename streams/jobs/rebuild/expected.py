"""What Redis must hold according to the log: per topic the newest record of each key, and histories.

Owns folding the log to that. Must not read Redis. A view reads on from where it was, so that what was written meanwhile
is no difference.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

from freshet.blob import BlobError, encode_deletion, encode_item, encode_knowledge, encode_user
from freshet.header import decode_header
from freshet.records import ItemFeatures, ItemKnowledge, UserFeatures
from processors.validate import ContractViolation, check_deletion
from schemas.codec import Codec, DecodeError
from store.erasure_watermarks import digest
from store.histories import NO_VERSIONS, HistoryBatch, QueuedVersions
from streams.jobs.rebuild.erased import ErasedUsers
from streams.kafka.batch import Message
from streams.kafka.erasure_notices import read_erasures
from streams.kafka.ranges import Range, RangeReader
from streams.lanes.user_events import UserEventsHandler
from streams.settings import Settings
from streams.wiring.resources import Resources

_RECORD_HEAD = struct.Struct(">qI")


class Standing(NamedTuple):
    """What a key must hold: its rank by (event_time, tier, sequence), a digest of its blob, when Kafka got it."""

    rank: tuple[int, int, int]
    digest: bytes
    deleted: bool
    written_ms: int

    @classmethod
    def of(cls, blob: bytes, written_ms: int = 0) -> Standing:
        """From a blob."""
        header = decode_header(blob)
        assert header is not None
        rank = header.event_time, header.tier, header.sequence
        return cls(rank, blake2b(blob, digest_size=8).digest(), header.deleted, written_ms)


class Fold(Protocol):
    """Takes records in the order of the log."""

    def take(self, messages: Sequence[Message]) -> set[str]:
        """Note them; answers the ids whose state may have changed."""
        ...


class View:
    """A topic read up to its present end, and on from there."""

    def __init__(self, settings: Settings, topic: str, fold: Fold) -> None:
        self._settings, self._topic, self._fold = settings, topic, fold
        self._ends: dict[int, int] = {}
        self.clipped = False

    def advance(self, progress: Callable[[int, int], None] = lambda _done, _all: None) -> set[str]:
        """Read what has come; answers the ids it may have changed. Raises `NoTopic`, `KafkaException`."""
        changed: set[str] = set()
        for messages in self._read(progress):
            changed |= self._fold.take(messages)
        return changed

    def _read(self, progress: Callable[[int, int], None]) -> Iterator[list[Message]]:
        with RangeReader(self._settings) as reader:
            found = reader.find(self._topic)
            self.clipped = self.clipped or any(one.first > 0 for one in found)
            ranges: list[Range] = [replace(one, first=self._ends.get(one.partition, one.first)) for one in found]
            total = sum(map(len, ranges))
            progress(0, total)
            for messages in reader.batches(ranges):
                yield messages
                progress(reader.passed, total)
            self._ends = {one.partition: one.end for one in ranges}
        progress(total, total)


@dataclass(frozen=True, slots=True)
class Form:
    """How the records of one topic stand in Redis."""

    record: type[Any]
    id: Callable[[Any], str]
    blob: Callable[[Any, str], bytes]


ITEM = Form(ItemFeatures, lambda one: one.item_id, encode_item)
USER = Form(UserFeatures, lambda one: one.user_id, encode_user)
KNOWLEDGE = Form(ItemKnowledge, lambda one: one.item_id, lambda one, _dtype: encode_knowledge(one))


class Newest:
    """The newest record of each key of a version, by the rule of the server-side function."""

    def __init__(self, codec: Codec, form: Form, version: str, dtype: str) -> None:
        self._codec, self._form, self._version, self._dtype = codec, form, version, dtype
        self.standing: dict[str, Standing] = {}

    def take(self, messages: Sequence[Message]) -> set[str]:
        """See `Fold`. What the sink refuses stands nowhere."""
        changed = set()
        for message in messages:
            try:
                one, stands = self._of(message)
            except (DecodeError, ContractViolation, BlobError):
                continue
            if stands is not None and (one not in self.standing or stands.rank > self.standing[one].rank):
                self.standing[one] = stands
                changed.add(one)
        return changed

    def _of(self, message: Message) -> tuple[str, Standing | None]:
        value, timestamp = message.value(), max(0, int(message.timestamp()[1]))
        if value is None:
            return check_deletion(message.key()), Standing.of(encode_deletion(timestamp, message.offset()), timestamp)
        record = self._codec.decode(self._form.record, value)
        one = self._form.id(record)
        if message.key() != one.encode() or (record.version or self._version) != self._version:
            return one, None
        return one, Standing.of(self._form.blob(record, self._dtype), timestamp)


class ExpectedHistories:
    """The newest events of each user as the log has them, `length` each: by user, member to time."""

    def __init__(self, resources: Resources) -> None:
        self._length = resources.settings.history.length
        self._erased = ErasedUsers()
        self._handler = UserEventsHandler(resources, replaying=True, store=self)
        self._touched: set[str] = set()
        self._bounds: dict[str, int] = {}
        self._kept_bounds = read_erasures(resources.settings, resources.codec)
        self.members: dict[str, dict[bytes, int]] = {}
        self.written_ms: dict[bytes, int] = {}
        """When Kafka got the latest record of each key."""

    def take(self, messages: Sequence[Message]) -> set[str]:
        """See `Fold`; by the lane's own work, with this in the place of Redis."""
        self._touched = set()
        self._erased.note(messages)
        self.written_ms |= {message.key(): message.timestamp()[1] for message in messages if message.key()}
        batch = self._erased.standing(messages)
        for message in messages:
            if message.value() is None and message.key() is not None:
                self._forget(message.key().decode(errors="replace"), message.timestamp()[1])
        if batch.messages:
            self._handler.write(batch)
        return self._touched

    def append(self, batch: HistoryBatch, _versions: QueuedVersions = NO_VERSIONS) -> int:
        """As `store.histories.HistoryStore.append`."""
        for u, user_id in enumerate(batch.user_ids):
            mine = self.members.setdefault(user_id, {})
            bound = self._bounds.get(user_id) or self._kept_bounds.get(digest(user_id), 0)
            for record in range(int(batch.first[u]), int(batch.first[u + 1])):
                packed = bytes(batch.data[batch.ends[record] : batch.ends[record + 1]])
                timestamp, size = _RECORD_HEAD.unpack_from(packed)
                member = packed[_RECORD_HEAD.size : _RECORD_HEAD.size + size]
                if timestamp > bound:
                    mine[member] = max(timestamp, mine.get(member, timestamp))
            if len(mine) > 2 * self._length:
                self.members[user_id] = dict(self.newest(user_id))
            self._touched.add(user_id)
        return len(batch)

    def newest(self, user_id: str) -> list[tuple[bytes, int]]:
        """A user's members and times, oldest first, as the server orders them."""
        rows = sorted(self.members.get(user_id, {}).items(), key=lambda row: (row[1], row[0]))
        return rows[-self._length :]

    def _forget(self, user_id: str, timestamp: int) -> None:
        self._bounds[user_id] = max(timestamp, self._bounds.get(user_id, 0))
        # What of the user stands after the erasure in this very batch comes in again below.
        self.members[user_id] = {}
        self._touched.add(user_id)
