from __future__ import annotations

import threading
import time

import pytest
import redis

from freshet.due import Claim, DueUsers
from freshet.histories import HistoryBatch, HistoryEvent, HistoryStore

PAST_LEASE_S = 0.08


@pytest.fixture
def client(valkey):
    with redis.Redis.from_url(valkey) as client:
        yield client


def mark(client, *users, offset=0):
    HistoryStore(client).append(HistoryBatch.of([HistoryEvent(u, "i", "view", 1_000, offset=offset) for u in users]))


def names(claims):
    return [claim.user_id for claim in claims]


def test_nobody_due_is_an_empty_claim(client):
    assert DueUsers(client).claim(10, 60, 30) == []
    assert DueUsers(client).complete([]) == 0


def test_a_claimed_user_is_not_claimed_again_while_leased(client):
    due = DueUsers(client)
    mark(client, "a", "b", "c")
    first, second, third = due.claim(2, 60, 0), due.claim(2, 60, 0), due.claim(2, 60, 0)
    assert (len(first), len(second), third) == (2, 1, [])
    assert (due.size(), due.leased()) == (0, 3)
    assert sorted(names(first + second)) == ["a", "b", "c"]


def test_workers_that_claim_at_once_never_share_a_user(client, valkey):
    # Catches a claim that reads and leases in two steps.
    users = [f"u{n}" for n in range(600)]
    mark(client, *users)
    taken: list[str] = []

    def work():
        with redis.Redis.from_url(valkey) as own:
            while claims := DueUsers(own).claim(7, 60, 0):
                taken.extend(names(claims))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(users)


def test_a_dead_workers_users_come_back_and_its_late_answer_counts_for_nothing(client):
    due = DueUsers(client)
    mark(client, "a", "b")
    dead = due.claim(10, 0.05, 0)
    assert due.claim(10, 60, 0) == []
    time.sleep(PAST_LEASE_S)
    alive = due.claim(10, 60, 0)
    assert sorted(names(alive)) == ["a", "b"]
    assert due.complete(dead) == 0
    assert due.release(dead) == 0
    assert due.claim(10, 60, 0) == []  # still under the second lease
    assert due.complete(alive) == 2


def test_events_during_the_lease_leave_the_user_due_afterwards(client):
    # Catches a refresh that swallows the events it did not see.
    due = DueUsers(client)
    mark(client, "a")
    claims = due.claim(10, 60, 0)
    mark(client, "a", offset=1)
    assert due.claim(10, 60, 0) == []
    due.complete(claims)
    assert names(due.claim(10, 60, 0)) == ["a"]


def test_a_user_is_refreshed_at_most_once_an_interval_and_then_again(client):
    due = DueUsers(client)
    mark(client, "a")
    due.complete(due.claim(10, 60, 0.3))
    mark(client, "a", offset=1)
    assert due.claim(10, 60, 0.3) == []
    assert due.size() == 1
    time.sleep(0.35)
    assert names(due.claim(10, 60, 0.3)) == ["a"]


def test_users_that_must_wait_do_not_hide_the_ones_behind_them(client):
    due = DueUsers(client)
    early = [f"e{n}" for n in range(20)]
    mark(client, *early)
    due.complete(due.claim(100, 60, 30))
    mark(client, *early, offset=1)
    time.sleep(0.002)
    mark(client, "late")
    assert names(due.claim(5, 60, 30)) == ["late"]


def test_a_released_user_can_be_claimed_at_once(client):
    due = DueUsers(client)
    mark(client, "a")
    claims = due.claim(1, 60, 30)
    mark(client, "a", offset=1)
    assert due.claim(1, 60, 30) == []  # moved to the end of the lease
    assert due.release(claims) == 1
    assert names(due.claim(1, 60, 30)) == ["a"]


def test_names_that_are_not_ascii_survive(client):
    mark(client, "ü ser")
    assert names(DueUsers(client).claim(1, 60, 0)) == ["ü ser"]


def test_a_foreign_claim_is_ignored(client):
    assert DueUsers(client).complete([Claim("never", "1")]) == 0
