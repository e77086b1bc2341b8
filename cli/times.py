"""How people write times on a command line: lengths of time, and moments.

Owns the two notations. Must not know what they bound.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def parse_duration(text: str) -> float:
    """Seconds, from `90`, `90s`, `1.5h`, `7d`; raises `ValueError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not found:
        raise ValueError(f"{text!r} is no duration such as 90s, 30m, 12h or 7d")
    return float(found[1]) * _UNITS_S[found[2]]


def parse_time(text: str, now_ms: int) -> int:
    """Milliseconds since 1970, from `2026-11-25`, `2026-11-25T04:00[:00][+01:00]` (else UTC), epoch milliseconds, or
    how long ago, `90s`, `30m`, `12h`, `7d`. Raises `ValueError`."""
    if re.fullmatch(r"\d{12,14}", text):
        return int(text)
    if text[-1:] in ("s", "m", "h", "d"):
        return max(1, now_ms - round(1_000 * parse_duration(text)))
    try:
        timestamp = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time such as 2026-11-25T04:00, 12h (ago) or epoch milliseconds") from None
    return max(1, round(1_000 * (timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)).timestamp()))
