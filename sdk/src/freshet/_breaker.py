"""A circuit breaker: whether a server that failed lately is worth asking at all.

Owns that decision for one server; pure but for its clock, and safe between threads (a race costs one more try).
"""

from __future__ import annotations

import time
from collections.abc import Callable


class CircuitBreaker:
    """Opens after `failures` failures in a row; every `cooldown_s` afterwards one call may try, and a success closes.

    While it is open nobody waits for a time-out: a ranker whose server hangs answers at once without features.
    """

    def __init__(self, failures: int = 5, cooldown_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        if failures < 1 or cooldown_s < 0:
            raise ValueError(f"failures is {failures} and cooldown_s {cooldown_s:g}, wanted at least 1 and 0")
        self._limit, self._cooldown_s, self._clock = failures, cooldown_s, clock
        self._failures = 0
        self._retry_at = 0.0

    def __repr__(self) -> str:
        return f"CircuitBreaker(failures={self._limit}, cooldown_s={self._cooldown_s:g}, is_open={self.is_open})"

    @property
    def is_open(self) -> bool:
        """Whether calls are refused but for a try now and then."""
        return self._failures >= self._limit

    def allow(self) -> bool:
        """Whether to call now; the answer yes of an open breaker is given to one caller a cool-down."""
        if self._failures < self._limit:
            return True
        now = self._clock()
        if now < self._retry_at:
            return False
        self._retry_at = now + self._cooldown_s
        return True

    def succeeded(self) -> None:
        """The call was answered."""
        self._failures = 0

    def failed(self) -> None:
        """The call was not answered, or too late."""
        self._failures += 1
        if self._failures == self._limit:
            self._retry_at = self._clock() + self._cooldown_s
