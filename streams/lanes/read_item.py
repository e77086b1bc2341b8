"""One record of `items`, as both item lanes read it, and the deletions they pass on.

Owns decoding and checking. Must not publish.
"""

from __future__ import annotations

from dataclasses import dataclass

from freshet.records import Item
from processors.validate import check_deletion, check_item
from streams.kafka.publish import Output
from streams.kafka.record import SourceRecord
from streams.wiring.resources import Resources


@dataclass(frozen=True, slots=True)
class Deleted:
    """The item a null value deletes."""

    item_id: str


def read_item(resources: Resources, record: SourceRecord) -> Item | Deleted:
    """Decode and check one record of `items`; raises poison or `RegistryUnavailable`."""
    if record.value is None:
        return Deleted(check_deletion(record.key))
    item = resources.codec.decode(Item, record.value)
    check_item(item, resources.clock(), resources.settings.history.max_future_s, key=record.key)
    return item


def tombstone(record: SourceRecord, topic: str, item_id: str) -> Output:
    """A deletion on its way on, at the time it was made."""
    return Output(record, topic, item_id.encode(), None, timestamp=record.timestamp)
