"""Whether everything that was sent has come of it what must, key by key, from Redis and the dead-letter topics.

Owns the comparison. Must not wait, nor repair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import redis

from freshet.header import BlobHeader, decode_header
from freshet.layout import Keys
from freshet.records import DeadLetter, ItemTier
from schemas.codec import Codec
from store.histories import HistoryStore
from store.refresh_queue import RefreshQueue
from streams.kafka.topics import Topics
from streams.settings import Settings
from tests.faults.load import Load, Record
from tests.support.lane_tools import read_all

Position = tuple[str, int, int]
_TOGETHER = 500


@dataclass
class Findings:
    """What an audit found; `lost` and `older` must be empty, `repeats` are harmless."""

    checked: int = 0
    lost: list[str] = field(default_factory=list)
    older: list[str] = field(default_factory=list)
    dead_letters: int = 0
    repeats: int = 0

    def __str__(self) -> str:
        shown = [*self.lost[:5], *self.older[:5]]
        return f"{self.checked:,} keys, {len(self.lost)} lost, {len(self.older)} older, {self.repeats} repeats {shown}"

    @property
    def clean(self) -> bool:
        return not self.lost and not self.older


def audit(
    settings: Settings,
    client: redis.Redis,
    load: Load,
    bad: Mapping[Position, Record],
    *,
    tier: ItemTier = ItemTier.KNOWLEDGE,
    refreshed: bool = True,
    mended: Container[Position] = (),
) -> Findings:
    """Compare what is there with `load.truth` and `bad`.

    `tier`: the least that every item's vector must have; from KNOWLEDGE on, its knowledge is looked at too.
    `refreshed`: whether each user must have features as new as the newest event.
    `mended`: good records that may have dead letters, as somebody has sent them again.
    """
    found = Findings()
    keys = Keys(settings.key_prefix)
    _items(found, client, keys, settings.version, load, tier)
    _users(found, client, settings, keys, load, refreshed)
    _letters(found, settings, bad, mended)
    return found


def _items(found: Findings, client: redis.Redis, keys: Keys, version: str, load: Load, tier: ItemTier) -> None:
    kinds: list[tuple[str, Callable[[str, str], str], int]] = [("item", keys.item, tier)]
    if tier >= ItemTier.KNOWLEDGE:
        kinds.append(("knowledge", keys.knowledge, 0))
    for kind, key, least in kinds:
        for item_id, header in _headers(client, load.truth.items, lambda one, key=key: key(version, one)):  # type: ignore[misc]
            wanted = load.truth.items[item_id].event_time
            found.checked += 1
            if header is None or header.deleted:
                found.lost.append(f"{kind} {item_id} is {'deleted' if header else 'absent'}")
            elif header.event_time != wanted or header.tier < least:
                found.older.append(f"{kind} {item_id} is of {header.event_time - wanted:+} ms, tier {header.tier}")
        for item_id, header in _headers(client, load.truth.deleted, lambda one, key=key: key(version, one)):  # type: ignore[misc]
            found.checked += 1
            if header is None or not header.deleted:
                found.lost.append(f"the deletion of {kind} {item_id}")


def _users(found: Findings, client: redis.Redis, settings: Settings, keys: Keys, load: Load, refreshed: bool) -> None:
    most = max(map(len, load.truth.events.values()), default=0)
    assert most <= settings.history.length, "events that no history keeps are events that no audit can miss"
    store = HistoryStore(client, settings.key_prefix, length=settings.history.length)
    users = [*load.truth.events, *load.truth.erased]
    for some in _chunks(users):
        for history in store.load(some):
            found.checked += 1
            sent = load.truth.events.get(history.user_id, {})
            times = sorted(sent)[-settings.history.length :]
            wanted = [(time, sent[time].item_id, sent[time].event_type) for time in times]
            there = list(zip(history.event_times, history.item_ids, history.event_types, strict=True))
            if there != wanted:
                missing = len(set(wanted) - set(there))
                found.lost.append(
                    f"user {history.user_id}: {missing} events missing, {len(there)} of {len(wanted)} there"
                )
    if not refreshed:
        return
    if left := RefreshQueue(client, settings.version, settings.key_prefix).size():
        found.lost.append(f"{left} users are due and nobody refreshes them")
    for user_id, header in _headers(client, users, lambda one: keys.user(settings.version, one)):
        found.checked += 1
        if user_id in load.truth.erased:
            if header is not None and not header.deleted:
                found.lost.append(f"the erasure of user {user_id}: features of {header.event_time}")
        elif header is None or header.deleted:
            found.lost.append(f"features of user {user_id}")
        elif header.event_time != max(load.truth.events[user_id]):
            found.older.append(f"features of user {user_id}")


def _letters(found: Findings, settings: Settings, bad: Mapping[Position, Record], mended: Container[Position]) -> None:
    """Item lanes read a topic each for itself: a bad item has a letter of each of them."""
    topics, codec = Topics(settings), Codec()
    counts: Counter[tuple[Position, str]] = Counter()
    for topic in (topics.items, topics.user_events):
        for record in read_all(settings.kafka.servers, topics.dead_letters(topic)):
            dead_letter = codec.decode(DeadLetter, record.value or b"")
            place = (dead_letter.topic, dead_letter.partition, dead_letter.offset)
            counts[place, dead_letter.stage.partition("/")[0]] += 1
            if place not in bad and place in mended:
                continue
            if place not in bad:
                found.lost.append(f"a good record is a dead letter: {place} {dead_letter.reason}")
            elif (dead_letter.key, dead_letter.value) != (bad[place].key, bad[place].value):
                found.lost.append(f"the dead letter of {place} is not its record")
    found.dead_letters = len({place for place, _ in counts})
    found.repeats = sum(counts.values()) - len(counts)
    found.checked += len(bad)
    found.lost += [f"the dead letter of {place}" for place in bad.keys() - {place for place, _ in counts}]


def _headers(
    client: redis.Redis, ids: Iterable[str], key: Callable[[str], str]
) -> Iterator[tuple[str, BlobHeader | None]]:
    for some in _chunks(list(ids)):
        yield from zip(some, map(decode_header, client.mget([key(one) for one in some])), strict=True)


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _TOGETHER):
        yield list(ids[start : start + _TOGETHER])
