"""When a server that failed is asked again."""

from __future__ import annotations

import pytest

from freshet import CircuitBreaker


class Seconds:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_opens_tries_and_closes() -> None:
    """Catches a breaker that stays closed, stays open, or lets everybody try at once."""
    clock = Seconds()
    breaker = CircuitBreaker(failures=3, cooldown_s=2.0, clock=clock)
    for _ in range(2):
        breaker.failed()
    breaker.succeeded()  # in a row, it says
    for _ in range(3):
        assert breaker.allow()
        breaker.failed()
    assert breaker.is_open
    assert not breaker.allow()
    clock.now += 2.0
    assert [breaker.allow(), breaker.allow()] == [True, False]
    breaker.failed()
    assert not breaker.allow()
    clock.now += 2.0
    assert breaker.allow()
    breaker.succeeded()
    assert [breaker.allow(), breaker.allow(), breaker.is_open] == [True, True, False]


@pytest.mark.parametrize(("failures", "cooldown_s"), [(0, 1.0), (1, -1.0)])
def test_senseless_limits_are_refused(failures: int, cooldown_s: float) -> None:
    """Catches a breaker that is open before anything failed."""
    with pytest.raises(ValueError, match="failures"):
        CircuitBreaker(failures, cooldown_s)
