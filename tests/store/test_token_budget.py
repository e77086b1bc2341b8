"""The token budget on a real server: shared, restart-proof, and never stuck."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis

from store.token_budget import BudgetState, TokenBudget, budget_state


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


def test_a_call_is_admitted_with_room_and_settled_by_what_it_used(client: redis.Redis) -> None:
    """Catches an estimate that is never given back, or usage that is not counted."""
    budget = TokenBudget(client, limit=1_000)
    first = budget.reserve(400)
    assert (first.admitted, first.state.spent, first.state.held) == (True, 0, 400)
    after = budget.settle(first, 150)
    assert (after.spent, after.held, after.limit) == (150, 0, 1_000)
    assert 0 < after.resets_in_s <= 3_600


def test_no_room_is_no_admission_and_says_when_to_come_back(client: redis.Redis) -> None:
    """Catches an overdrawn budget, an hour's wait where seconds do, and seconds where only the next hour helps."""
    budget = TokenBudget(client, limit=1_000)
    held = budget.reserve(700)
    refused = budget.reserve(400)
    assert not refused.admitted
    assert refused.retry_after_s <= 1.0, "what is held will mostly be given back"
    budget.settle(held, 700)
    refused = budget.reserve(400)
    assert not refused.admitted
    assert refused.retry_after_s == pytest.approx(refused.state.resets_in_s)
    assert budget.reserve(300).admitted


def test_an_estimate_beyond_the_whole_budget_does_not_wait_for_ever(client: redis.Redis) -> None:
    """Catches a lane that never moves again because one prompt is longer than the hour's budget."""
    budget = TokenBudget(client, limit=100)
    large = budget.reserve(5_000)
    assert large.admitted
    assert not budget.reserve(1).admitted
    budget.settle(large, 5_000)
    assert budget_state(client).spent == 5_000


def test_a_settlement_counts_once(client: redis.Redis) -> None:
    """Catches tokens counted twice because an answer was lost and the call made again."""
    budget = TokenBudget(client, limit=1_000)
    one = budget.reserve(100)
    budget.settle(one, 60)
    assert budget.settle(one, 60).spent == 60


def test_what_a_dead_worker_held_is_let_go(client: redis.Redis) -> None:
    """Catches a budget that shrinks with every kill -9."""
    dead = TokenBudget(client, limit=1_000, lease_s=0.05)
    assert dead.reserve(1_000).admitted
    alive = TokenBudget(client, limit=1_000)
    assert not alive.reserve(10).admitted
    time.sleep(0.08)
    assert alive.reserve(10).admitted


def test_the_next_hour_begins_with_nothing_spent(client: redis.Redis) -> None:
    """Catches a budget that is spent for good."""
    budget = TokenBudget(client, limit=1_000)
    budget.settle(budget.reserve(1_000), 1_000)
    assert not budget.reserve(1).admitted
    client.hincrby("f:budget", "hour", -1)  # as if the last call had been an hour ago
    assert budget.reserve(900).admitted
    assert budget_state(client).spent == 0


def test_workers_share_one_budget_and_never_overdraw_it(client: redis.Redis, valkey: str) -> None:
    """Catches a check and a reservation in two steps."""
    admitted: list[int] = []

    def work() -> None:
        with redis.Redis.from_url(valkey) as own:
            budget = TokenBudget(own, limit=1_000)
            admitted.extend(10 for _ in range(60) if budget.reserve(10).admitted)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admitted) == 1_000


def test_the_budget_outlives_its_worker_and_a_server_without_one_says_so(client: redis.Redis) -> None:
    """Catches a budget that starts anew with each restart, and a status that fails before the first worker."""
    assert budget_state(client).limit == 0
    first = TokenBudget(client, limit=500)
    first.settle(first.reserve(300), 300)
    state = budget_state(client)
    assert (state.spent, state.limit) == (300, 500)
    assert isinstance(state, BudgetState)
    assert not TokenBudget(client, limit=500).reserve(201).admitted


def test_a_limit_of_nothing_is_refused(client: redis.Redis) -> None:
    """Catches zero, which means no limit in the settings, taken for a budget that admits nothing."""
    with pytest.raises(ValueError, match="limit"):
        TokenBudget(client, limit=0)
