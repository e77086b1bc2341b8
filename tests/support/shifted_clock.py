"""A wall clock that somebody else sets: import it first, and `time.time` is off by what a file says, in seconds.

Python's wall clock only. What the libraries of Kafka and Redis count in C, and every monotonic clock, goes on: stepping
those too (libfaketime) breaks sleeping itself in Python 3.11. Nothing happens unless LANE_CLOCK_FILE names the file.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_READ_EVERY_S = 0.1


class _Shift:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._seconds = 0.0
        self._read_at = 0.0
        self._time, self._time_ns = time.time, time.time_ns

    def seconds(self) -> float:
        if time.monotonic() >= self._read_at:
            self._read_at = time.monotonic() + _READ_EVERY_S
            self._seconds = float(self._file.read_text() or 0)
        return self._seconds

    def time(self) -> float:
        return self._time() + self.seconds()

    def time_ns(self) -> int:
        return self._time_ns() + round(1e9 * self.seconds())


def install() -> None:
    """Shift this process's clock from now on, if it is to be."""
    if path := os.environ.get("LANE_CLOCK_FILE"):
        shift = _Shift(Path(path))
        time.time, time.time_ns = shift.time, shift.time_ns


install()
