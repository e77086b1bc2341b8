"""What an operator asks of a replay: which version, which records, how fast.

Owns how times and lists of keys are written. Must not ask Kafka or Redis.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

TOPICS = ("items", "user-events", "all")
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class Request:
    """`from_ms` <= Kafka timestamp < `to_ms`, 0 for no bound; `keys_file` empty: every key; `rate` 0: no limit.

    `keys_digest` proves that a resumed replay reads the file it began with. `knowledge`: items are distilled too.
    """

    version: str
    topic: str = "all"
    from_ms: int = 0
    to_ms: int = 0
    keys_file: str = ""
    keys_digest: str = ""
    knowledge: bool = False
    rate: float = 0.0

    @property
    def windowed(self) -> bool:
        """Whether a time bounds it."""
        return bool(self.from_ms or self.to_ms)


class KeysChanged(ValueError):
    """The file of keys is not what it was when the replay began."""


def parse_time(text: str, now_ms: int) -> int:
    """Milliseconds since 1970, from `2026-11-25`, `2026-11-25T04:00[:00][+01:00]` (else UTC), epoch milliseconds, or
    how long ago, `90s`, `30m`, `12h`, `7d`. Raises `ValueError`."""
    if ago := re.fullmatch(r"(\d+)([smhd])", text):
        return max(1, now_ms - int(ago[1]) * _UNITS_MS[ago[2]])
    if re.fullmatch(r"\d{12,14}", text):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time such as 2026-11-25T04:00, 12h (ago) or epoch milliseconds") from None
    return max(1, round(1_000 * (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()))


def read_keys(file: str, digest: str = "") -> tuple[frozenset[bytes], str]:
    """The ids in `file`, one a line, and the file's digest; raises `KeysChanged` where it is not `digest`."""
    if not file:
        return frozenset(), ""
    text = Path(file).read_bytes()
    found = hashlib.sha256(text).hexdigest()
    if digest and found != digest:
        raise KeysChanged(f"{file} has changed since the replay began; begin another one")
    return frozenset(line.strip() for line in text.splitlines() if line.strip()), found
