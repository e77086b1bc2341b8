"""The contract's checks: each bad field is named, and good records pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from freshet.records import Item, UserEvent
from processors.validate import ContractViolation, check_deletion, check_event, check_item

NOW = 1_700_000_000_000
ITEM = Item("i1", NOW, "Oat drink")
EVENT = UserEvent("u1", "i1", "view", NOW)


def test_good_records_pass() -> None:
    """Catches a check that refuses ordinary data, the edges of time included."""
    check_item(ITEM, NOW, 300, key=b"i1")
    check_item(replace(ITEM, event_time=NOW + 300_000, price=0.0), NOW, 300)
    check_event(EVENT, NOW, 300, key=b"u1")
    check_event(replace(EVENT, value=-2.5, event_id="e" * 512), NOW, 300)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"item_id": ""}, "missing_id"),
        ({"item_id": "  "}, "missing_id"),
        ({"item_id": "x" * 513}, "too_large"),
        ({"title": " \n\t"}, "empty_title"),
        ({"event_time": 0}, "bad_time"),
        ({"event_time": -1}, "bad_time"),
        ({"event_time": NOW // 1000}, "bad_time"),
        ({"event_time": NOW + 300_001}, "future_time"),
        ({"event_time": 2**62}, "future_time"),
        ({"price": float("nan")}, "bad_number"),
        ({"price": float("-inf")}, "bad_number"),
    ],
)
def test_a_bad_item_is_refused_with_its_reason(change: dict[str, Any], reason: str) -> None:
    """Catches an item that reaches the encoder or Redis in a shape no reader expects."""
    with pytest.raises(ContractViolation) as caught:
        check_item(replace(ITEM, **change), NOW, 300)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user_id": ""}, "missing_user"),
        ({"item_id": ""}, "missing_item"),
        ({"event_type": ""}, "missing_type"),
        ({"event_time": 1}, "bad_time"),
        ({"event_time": NOW + 10**9}, "future_time"),
        ({"value": float("inf")}, "bad_number"),
        ({"user_id": "ü" * 257}, "too_large"),
        ({"event_id": "x" * 513}, "too_large"),
    ],
)
def test_a_bad_event_is_refused_with_its_reason(change: dict[str, Any], reason: str) -> None:
    """Catches an event from the future, or one that would be counted for nobody."""
    with pytest.raises(ContractViolation) as caught:
        check_event(replace(EVENT, **change), NOW, 300)
    assert caught.value.reason == reason


def test_a_key_that_is_not_the_id_is_refused() -> None:
    """Catches a record that a later deletion by key would miss."""
    for check in (lambda: check_item(ITEM, NOW, 300, key=b"i2"), lambda: check_event(EVENT, NOW, 300, key=b"i1")):
        with pytest.raises(ContractViolation) as caught:
            check()
        assert caught.value.reason == "key_mismatch"


@pytest.mark.parametrize("key", [None, b"", b"\xff\xfe", b"x" * 600])
def test_a_deletion_needs_a_key_that_is_an_id(key: bytes | None) -> None:
    """Catches a null value that would delete nothing, or crash the lane."""
    with pytest.raises(ContractViolation):
        check_deletion(key)


def test_a_deletion_names_its_id() -> None:
    """Catches a deletion of the wrong item."""
    assert check_deletion("süß".encode()) == "süß"
