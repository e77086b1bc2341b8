"""What a decoded item or event must satisfy before anything is computed from it.

Owns the checks and their reasons (the values of `streams.errors.Reason`, which this layer must not import). Must not
repair: a record is taken as it is or refused with the field named.
"""

from __future__ import annotations

import math
from typing import Literal

from freshet.records import Item, UserEvent

Violation = Literal[
    "missing_id",
    "missing_user",
    "missing_item",
    "missing_type",
    "empty_title",
    "bad_time",
    "future_time",
    "bad_number",
    "too_large",
    "key_mismatch",
]

EARLIEST_MS = 31_536_000_000
"""1971-01-01: earlier times are zeros, or seconds where milliseconds are due."""
MAX_ID_BYTES = 512
"""An id becomes part of a Redis key and is held in memory per user; nobody's ids are longer, corrupt ones are."""


class ContractViolation(ValueError):
    """A well-formed record says something the contract does not allow: poison. `reason` is one of `Violation`."""

    def __init__(self, reason: Violation, message: str) -> None:
        super().__init__(message)
        self.reason: Violation = reason


def check_item(item: Item, now_ms: int, max_future_s: float, *, key: bytes | None = None) -> None:
    """Raise `ContractViolation` where `item` must not be used; `key` is the record's Kafka key, None = not checked."""
    _check_id(item.item_id, "missing_id", "item_id")
    _check_key(key, item.item_id, "item_id")
    if not item.title.strip():
        raise ContractViolation("empty_title", f"item {item.item_id!r} has no title")
    check_time(item.event_time, now_ms, max_future_s)
    _check_number(item.price, "price")


def check_event(event: UserEvent, now_ms: int, max_future_s: float, *, key: bytes | None = None) -> None:
    """Raise `ContractViolation` where `event` must not be used; `key` is the record's Kafka key, None = not checked."""
    _check_id(event.user_id, "missing_user", "user_id")
    _check_key(key, event.user_id, "user_id")
    _check_id(event.item_id, "missing_item", "item_id")
    if not event.event_type.strip():
        raise ContractViolation("missing_type", f"the event of user {event.user_id!r} has no event_type")
    check_time(event.event_time, now_ms, max_future_s)
    _check_number(event.value, "value")
    if len(event.event_id.encode()) > MAX_ID_BYTES:
        raise ContractViolation("too_large", f"event_id is longer than {MAX_ID_BYTES} bytes")


def check_deletion(key: bytes | None) -> str:
    """The id that a null value deletes, from its key; raises `ContractViolation` where there is none."""
    if not key:
        raise ContractViolation("key_mismatch", "a null value without a key deletes nothing")
    try:
        deleted = key.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ContractViolation("key_mismatch", f"the key of a null value is not UTF-8 ({error})") from error
    _check_id(deleted, "missing_id", "key")
    return deleted


def check_time(event_time: int, now_ms: int, max_future_s: float) -> None:
    """Raise `ContractViolation` for a time before 1971 or more than `max_future_s` after `now_ms`."""
    if event_time < EARLIEST_MS:
        raise ContractViolation("bad_time", f"event_time {event_time} is before 1971; milliseconds are wanted")
    if event_time > now_ms + max_future_s * 1000:
        ahead_s = (event_time - now_ms) / 1000
        raise ContractViolation("future_time", f"event_time {event_time} is {ahead_s:.0f} s in the future")


def _check_id(value: str, missing: Violation, name: str) -> None:
    if not value.strip():
        raise ContractViolation(missing, f"{name} is empty")
    if len(value.encode()) > MAX_ID_BYTES:
        raise ContractViolation("too_large", f"{name} is longer than {MAX_ID_BYTES} bytes")


def _check_key(key: bytes | None, value: str, name: str) -> None:
    if key is not None and key != value.encode():
        raise ContractViolation("key_mismatch", f"the record's key is {key[:80]!r}, its {name} {value[:80]!r}")


def _check_number(value: float | None, name: str) -> None:
    if value is not None and not math.isfinite(value):
        raise ContractViolation("bad_number", f"{name} is {value}")
