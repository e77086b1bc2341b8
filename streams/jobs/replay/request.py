"""What an operator asks of a replay: which version, which records, how fast.

Owns how a list of keys is written. Must not ask Kafka or Redis.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

TOPICS = ("items", "user-events", "all")


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


def read_keys(file: str, digest: str = "") -> tuple[frozenset[bytes], str]:
    """The ids in `file`, one a line, and the file's digest; raises `KeysChanged` where it is not `digest`."""
    if not file:
        return frozenset(), ""
    text = Path(file).read_bytes()
    found = hashlib.sha256(text).hexdigest()
    if digest and found != digest:
        raise KeysChanged(f"{file} has changed since the replay began; begin another one")
    return frozenset(line.strip() for line in text.splitlines() if line.strip()), found
