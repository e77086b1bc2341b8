"""The dead letters that name an erased user: finding them, and removing them.

Owns which those are. Must not decide when they are swept: `streams.jobs.erasure.hourly_sweep` and `freshet erase` do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

from freshet.records import DeadLetter, Record, UserEvent, UserFeatures
from schemas.codec import Codec, DecodeError
from store.erasure_watermarks import Erasures
from store.versions import Versions
from streams.jobs.dead_letters.read import StoredDeadLetter
from streams.jobs.dead_letters.rewrite import drop
from streams.kafka.producer import kafka_config
from streams.kafka.subjects import contract_of
from streams.kafka.topics import Topics, existing
from streams.wiring.resources import Resources

FEWEST_BYTES = 8
"""An id of at least so many bytes is looked for inside of values that do not decode; shorter ones are everywhere."""


def names_user(codec: Codec, topics: Topics, timestamps: Mapping[str, int]) -> Callable[[StoredDeadLetter], bool]:
    """Whether a dead letter is about one of these users, from before its erasure.

    By its record's key; by the user in its value, where that decodes; else, for ids of `FEWEST_BYTES`, by the id's
    bytes inside of what does not decode. What a user did after the erasure is not meant.
    """
    by_key = {user_id.encode(): timestamp for user_id, timestamp in timestamps.items()}
    long = {key: timestamp for key, timestamp in by_key.items() if len(key) >= FEWEST_BYTES}

    def named(dead_letter: StoredDeadLetter) -> bool:
        one = dead_letter.content
        if one is None:
            return _inside(dead_letter.record.value, dead_letter.record.timestamp, long)
        if one.key in by_key and one.timestamp <= by_key[one.key]:
            return True
        record = _record(codec, topics, one)
        if record is None:
            return _inside(one.value, one.timestamp, long)
        user_id = str(getattr(record, "user_id", ""))
        return bool(user_id) and one.timestamp <= by_key.get(user_id.encode(), -1)

    return named


def sweep(resources: Resources, timestamps: Mapping[str, int]) -> dict[str, int]:
    """Remove the dead letters that name these users, of all versions; answers how many, by topic.

    Raises as `streams.jobs.dead_letters.rewrite.drop` does.
    """
    settings, removed = resources.settings, dict[str, int]()
    versions = {settings.version, *Versions(resources.redis, settings.key_prefix).names()}
    wanted = {name for version in versions for name in Topics(settings, version).dead_letter_topics}
    which = names_user(resources.codec, resources.topics, timestamps)
    for topic in sorted(existing(kafka_config(settings), wanted)):
        if gone := drop(settings, resources.redis, resources.codec, topic, which).dropped:
            removed[topic] = gone
    return removed


def sweep_owed(resources: Resources) -> int:
    """Remove the dead letters of everybody who was erased since the last sweep; answers of how many users."""
    erasures = Erasures(resources.redis, resources.settings.key_prefix)
    owed = erasures.pending()
    if owed:
        sweep(resources, owed)
        erasures.done(owed)
    return len(owed)


def _record(codec: Codec, topics: Topics, dead_letter: DeadLetter) -> Record | None:
    """A dead letter's value as the record of its topic, or as one that names a user; None where it is neither."""
    kind = contract_of(topics, dead_letter.topic)
    for wanted in dict.fromkeys([kind, UserEvent, UserFeatures]):
        if wanted is not None and dead_letter.value is not None:
            with suppress(DecodeError):
                return cast(Record, codec.decode(cast(Any, wanted), dead_letter.value))
    return None


def _inside(value: bytes | None, timestamp: int, ids: Mapping[bytes, int]) -> bool:
    return value is not None and any(timestamp <= erased and key in value for key, erased in ids.items())
