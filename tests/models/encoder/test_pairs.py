"""Pairs of items one user engaged with together."""

from __future__ import annotations

import numpy as np

from models.encoder.pairs import DAY_MS, co_engaged
from models.reasoner.sequences import TrainingLog


def log(*events: tuple[int, int, int]) -> TrainingLog:
    """(user, item, time) in order of user and time."""
    users, items, times = (np.array(column, dtype=np.int64) for column in zip(*events, strict=True))
    return TrainingLog(users, items, times, int(users.max()) + 1)


def counted(pairs) -> dict[tuple[int, int], int]:
    return {(int(a), int(b)): int(n) for a, b, n in zip(pairs.left, pairs.right, pairs.counts, strict=True)}


def test_only_one_users_events_within_the_window_meet() -> None:
    """Catches pairs across users, across the window, or of an item with itself."""
    events = log((0, 0, 0), (0, 1, 5), (0, 2, 5 + 2 * DAY_MS), (1, 0, 0), (1, 0, 1), (1, 1, 2), (2, 2, 2))
    pairs = co_engaged(events, 3, np.random.default_rng(0))
    assert counted(pairs) == {(0, 1): 3, (1, 0): 3}
    assert pairs.totals.tolist() == [3, 2, 2]
    assert pairs.starts().tolist() == [0, 1, 2, 2]


def test_a_big_basket_costs_its_reach() -> None:
    """Catches a wholesaler's basket that grows with its square, or whose pairs hang on the order of the file."""
    basket = log(*((0, item, 7) for item in range(200)))
    one, two = (co_engaged(basket, 200, np.random.default_rng(seed), reach=5) for seed in (1, 2))
    assert len(one) == 2 * (199 + 198 + 197 + 196 + 195)
    assert counted(one) != counted(two)
    assert counted(one) == counted(co_engaged(basket, 200, np.random.default_rng(1), reach=5))


def test_lift_takes_the_popular_down_and_damping_the_rare() -> None:
    """Catches a lift ruled by bags everybody buys, or by one pair seen once."""
    events = [(user, item, 0) for user in range(30) for item in (0, 1)]
    events += [(user, item, 0) for user in range(30, 40) for item in (2, 3)] + [(50, 4, 0), (50, 5, 0)]
    events += [(user, 0, 0) for user in range(60, 160)]
    pairs = co_engaged(log(*events), 6, np.random.default_rng(0))
    lift = dict(zip(counted(pairs), pairs.lift(0), strict=True))
    assert lift[2, 3] == lift[4, 5] == 1 > lift[0, 1]
    damped = dict(zip(counted(pairs), pairs.lift(10), strict=True))
    assert damped[2, 3] > damped[4, 5]
