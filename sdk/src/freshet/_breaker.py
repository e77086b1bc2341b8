"""A circuit breaker: whether to ask a server that has just failed several times.

Owns this decision for one server. Must not do I/O.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class CircuitBreaker:
    """Opens after `failures` failures in a row; then one call every `cooldown_s` may try, and a success closes it.

    While it is open nobody waits for a time-out: a ranker whose server hangs gets a result without features at once.
    """

    # Threads share a breaker without a lock: a race costs one try more than allowed, and a lock costs every call.

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
        """Whether calls are refused, apart from one try per cool-down."""
        return self._failures >= self._limit

    def allow(self) -> bool:
        """Whether to call now; an open breaker says yes to one caller per cool-down."""
        if self._failures < self._limit:
            return True
        now = self._clock()
        if now < self._retry_at:
            return False
        self._retry_at = now + self._cooldown_s
        return True

    def succeeded(self) -> None:
        """Report that the call was answered."""
        self._failures = 0

    def failed(self) -> None:
        """Report that the call was not answered, or too late."""
        self._failures += 1
        if self._failures == self._limit:
            self._retry_at = self._clock() + self._cooldown_s
