"""Times as people write them."""

from __future__ import annotations

import pytest

from cli.times import parse_duration, parse_time

NOW_MS = 1_764_000_000_000


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5h", 5_400), ("30m", 1_800), ("7d", 604_800)]
)
def test_durations(text: str, seconds: float) -> None:
    """Catches minutes taken for months, and a fraction cut off."""
    assert parse_duration(text) == seconds


def test_moments() -> None:
    """Catches a window in another time zone, or one of seconds taken for milliseconds."""
    assert parse_time("12h", NOW_MS) == NOW_MS - 12 * 3_600_000
    assert parse_time("2025-11-24T16:00", NOW_MS) == NOW_MS
    assert parse_time("2025-11-24T17:00+01:00", NOW_MS) == NOW_MS
    assert parse_time("2025-11-24", NOW_MS) == NOW_MS - 16 * 3_600_000
    assert parse_time(str(NOW_MS), NOW_MS) == NOW_MS


@pytest.mark.parametrize("text", ["yesterday", "", "12", "3 days", "-1h", "2025-13-01"])
def test_what_is_neither_is_refused(text: str) -> None:
    """Catches a typing error that becomes a window of everything."""
    with pytest.raises(ValueError, match=r"no (time|duration)"):
        parse_time(text, NOW_MS)
