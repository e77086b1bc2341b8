"""Who is due, in which order, and the leases, on a real server."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
import redis

from freshet.layout import Keys
from store.histories import HistoryBatch, HistoryEvent, HistoryStore, QueuedVersions
from store.refresh_queue import Lease, QueueState, RefreshPolicy, RefreshQueue

SHORT_LEASE_S, PAST_LEASE_S = 0.3, 0.35
AT_ONCE = RefreshPolicy(interval_s=0)
KEYS = Keys("f")
V1 = QueuedVersions(["v1"])


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


def mark(client: redis.Redis, *users: str, offset: int = 0, events: int = 1, policy: RefreshPolicy = AT_ONCE) -> None:
    new = [HistoryEvent(user, "i", "view", 1_000, offset=offset + n) for user in users for n in range(events)]
    HistoryStore(client, policy=policy).append(HistoryBatch.of(new), V1)


def names(claims: Sequence[Lease]) -> list[str]:
    return [claim.user_id for claim in claims]


def refresh(due: RefreshQueue, limit: int = 1_000) -> list[str]:
    """Claim and complete."""
    claims = due.lease(limit, 60)
    assert due.complete(claims) == len(claims)
    return names(claims)


def test_nobody_due_is_an_empty_claim(client: redis.Redis) -> None:
    """Catches a server-side call without users, which Lua would refuse."""
    due = RefreshQueue(client, "v1", policy=AT_ONCE)
    assert due.lease(10, 60) == due.lease(0, 60) == []
    assert due.complete([]) == due.release([]) == 0
    assert due.state() == QueueState(0, 0, 0, 0.0)


def test_a_claimed_user_is_not_claimed_again_while_leased(client: redis.Redis) -> None:
    """Catches two workers on one user."""
    due = RefreshQueue(client, "v1", policy=AT_ONCE)
    mark(client, "a", "b", "c")
    first, second, third = due.lease(2, 60), due.lease(2, 60), due.lease(2, 60)
    assert (len(first), len(second), third) == (2, 1, [])
    assert (due.size(), due.leased()) == (0, 3)
    assert sorted(names(first + second)) == ["a", "b", "c"]


def test_workers_that_claim_at_once_never_share_a_user(client: redis.Redis, valkey: str) -> None:
    """Catches a claim that reads and leases in two steps."""
    users = [f"u{n}" for n in range(600)]
    mark(client, *users)
    taken: list[str] = []

    def work() -> None:
        with redis.Redis.from_url(valkey) as own:
            while claims := RefreshQueue(own, "v1", policy=AT_ONCE).lease(7, 60):
                taken.extend(names(claims))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(users)


def test_a_dead_workers_users_come_back_and_its_late_answer_counts_for_nothing(client: redis.Redis) -> None:
    """Catches users lost with their worker, and a lease ended by one who no longer holds it."""
    due = RefreshQueue(client, "v1", policy=AT_ONCE)
    mark(client, "a", "b")
    dead = due.lease(10, SHORT_LEASE_S)
    assert due.lease(10, 60) == []
    time.sleep(PAST_LEASE_S)
    alive = due.lease(10, 60)
    assert sorted(names(alive)) == ["a", "b"]
    assert due.complete(dead) == 0
    assert due.release(dead) == 0
    assert due.lease(10, 60) == []  # still under the second lease
    assert due.complete(alive) == 2


def test_events_during_the_lease_leave_the_user_due_afterwards(client: redis.Redis) -> None:
    """Catches a refresh that swallows the events it did not see."""
    due = RefreshQueue(client, "v1", policy=AT_ONCE)
    mark(client, "a")
    claims = due.lease(10, 60)
    mark(client, "a", offset=1)
    assert due.lease(10, 60) == []
    assert due.state().waiting == 1
    due.complete(claims)
    assert names(due.lease(10, 60)) == ["a"]


def test_a_user_is_refreshed_at_most_once_an_interval_and_then_again(client: redis.Redis) -> None:
    """Catches a busy user refreshed all the time, and one that is never refreshed again."""
    policy = RefreshPolicy(interval_s=0.6)
    due = RefreshQueue(client, "v1", policy=policy)
    mark(client, "a", policy=policy)
    assert refresh(due) == ["a"]
    mark(client, "a", offset=1, policy=policy)
    assert due.lease(10, 60) == []
    assert due.size() == 1
    time.sleep(0.65)
    assert names(due.lease(10, 60)) == ["a"]


def test_the_interval_holds_whoever_marked_the_user(client: redis.Redis) -> None:
    """Catches an interval or a lease that only the writer of events looks after: an older release does not."""
    due = RefreshQueue(client, "v1")
    mark(client, "a", "b")
    [first] = due.lease(1, 60)
    assert refresh(due) == ["b" if first.user_id == "a" else "a"]
    client.zadd(KEYS.due("v1"), {"a": 1, "b": 1})
    assert due.lease(10, 60) == []
    assert due.state().waiting == 2


def test_users_that_must_wait_do_not_hide_the_ones_behind_them(client: redis.Redis) -> None:
    """Catches a claim that only ever looks at the same few, by either writer of marks."""
    due = RefreshQueue(client, "v1")
    early = [f"e{n}" for n in range(20)]
    mark(client, *early)
    assert len(refresh(due)) == 20
    mark(client, *early[:10], offset=1, policy=RefreshPolicy())
    client.zadd(KEYS.due("v1"), dict.fromkeys(early[10:], 1.0))
    time.sleep(0.002)
    mark(client, "late")
    assert names(due.lease(5, 60)) == ["late"]


def test_enough_events_make_due_and_fewer_wait_until_the_features_are_stale(client: redis.Redis) -> None:
    """Catches a threshold that counts calls, one that never comes down to a slow user, and one for new users."""
    policy = RefreshPolicy(events=3, stale_s=1.0, interval_s=0)
    due = RefreshQueue(client, "v1", policy=policy)
    mark(client, "busy", "slow", "quiet", policy=policy)
    assert sorted(refresh(due)) == ["busy", "quiet", "slow"]  # never refreshed: nobody knows anything of them
    mark(client, "busy", "slow", offset=10, events=2, policy=policy)
    assert due.lease(10, 60) == []
    mark(client, "busy", offset=20, policy=policy)
    assert refresh(due) == ["busy"]
    mark(client, "busy", offset=30, events=2, policy=policy)  # the count begins anew with each refresh
    assert due.lease(10, 60) == []
    time.sleep(1.05)
    assert sorted(refresh(due)) == ["busy", "slow"]
    assert due.state() == QueueState(0, 0, 0, 0.0)


def test_a_redelivered_event_does_not_count_twice(client: redis.Redis) -> None:
    """Catches a threshold reached by one event that came three times."""
    policy = RefreshPolicy(events=2, interval_s=0)
    due = RefreshQueue(client, "v1", policy=policy)
    mark(client, "a", policy=policy)
    refresh(due)
    for _ in range(3):
        mark(client, "a", offset=1, policy=policy)
    assert due.lease(10, 60) == []


def test_more_active_users_go_first_among_equally_stale_ones(client: redis.Redis) -> None:
    """Catches an order by time alone, and one in which a due user's later events never count."""
    due, policy = RefreshQueue(client, "v1"), RefreshPolicy()
    for user, *batches in (("calm", 1), ("busy", 12), ("busier", 1, 1, 2, 30)):
        for n, events in enumerate(batches):
            mark(client, user, offset=100 * n, events=events, policy=policy)
    assert names(due.lease(10, 60)) == ["busier", "busy", "calm"]


def test_activity_counts_for_users_that_had_to_wait(client: redis.Redis) -> None:
    """Catches a bonus lost on the way from waiting to due."""
    policy = RefreshPolicy(interval_s=0.6)
    due = RefreshQueue(client, "v1", policy=policy)
    mark(client, "calm", "busy", policy=policy)
    refresh(due)
    mark(client, "calm", offset=10, policy=policy)
    for n in range(30):
        mark(client, "busy", offset=10 + n, policy=policy)
    time.sleep(0.65)
    assert names(due.lease(1, 60)) == ["busy"]


def test_an_order_by_bonus_never_passes_over_users_who_wait_for_long(client: redis.Redis) -> None:
    """Catches starvation: the most active user there can be gains 4.2 intervals, and no more."""
    policy = RefreshPolicy(interval_s=10)
    mark(client, "busy", events=900, policy=policy)
    now_ms = 1_000 * int(client.time()[0])  # type: ignore[index]
    client.zadd(KEYS.due("v1"), {"longer": now_ms - 43_000 + 1 / 1024, "shorter": now_ms - 40_000 + 1 / 1024})
    assert names(RefreshQueue(client, "v1", policy=policy).lease(10, 60)) == ["longer", "busy", "shorter"]


def test_a_released_or_orphaned_user_keeps_its_place_in_the_queue(client: redis.Redis) -> None:
    """Catches a deployment that sends the users it interrupts behind a million others."""
    due = RefreshQueue(client, "v1")
    for user in ("first", "second", "third"):
        mark(client, user, policy=RefreshPolicy())
        time.sleep(0.003)
    claims = due.lease(1, 60)
    mark(client, "first", offset=9, policy=RefreshPolicy())
    assert due.release(claims) == 1
    assert names(due.lease(1, SHORT_LEASE_S)) == ["first"]
    time.sleep(PAST_LEASE_S)
    assert names(due.lease(3, 60)) == ["first", "second", "third"]
    assert due.state() == QueueState(0, 0, 3, 0.0)


def test_what_a_claim_does_is_bounded_whatever_stands_there(client: redis.Redis) -> None:
    """Catches a night's backlog worked off in one call, with everybody's reads behind it."""
    now_ms = 1_000 * int(client.time()[0])  # type: ignore[index]
    crowd = {f"{n}": now_ms - 100_000 + n / 10 for n in range(20_000)}
    for key in (KEYS.waiting("v1"), KEYS.refreshed("v1"), KEYS.leased("v1")):
        client.zadd(key, {f"{key}{name}": score for name, score in crowd.items()})  # type: ignore[arg-type]
    due = RefreshQueue(client, "v1")
    claims = due.lease(100, 60)
    assert sorted(names(claims)) == sorted(f"{KEYS.leased('v1')}{n}" for n in range(100))
    assert client.zcard(KEYS.waiting("v1")) == 20_000 - 164
    assert client.zcard(KEYS.refreshed("v1")) == 20_000 - 200
    assert client.zcard(KEYS.leased("v1")) == 20_000 - 100 + 100


def test_a_large_claim_is_cut_into_calls_and_nobody_is_lost(client: redis.Redis) -> None:
    """Catches more users in a call than Lua can unpack."""
    users = [f"u{n}" for n in range(5_000)]
    for start in range(0, 5_000, 1_000):
        mark(client, *users[start : start + 1_000])
    due = RefreshQueue(client, "v1", policy=AT_ONCE)
    claims = due.lease(10_000, 60)
    assert sorted(names(claims)) == sorted(users)
    assert due.release(claims[:2_000]) == 2_000
    assert due.complete(claims) == 3_000
    assert (due.size(), due.leased()) == (2_000, 0)


def test_a_burst_degrades_to_oldest_first(client: redis.Redis) -> None:
    """Catches a claim that reads the whole burst, or serves it in another order than that of the marks."""
    now_ms = 1_000 * int(client.time()[0])  # type: ignore[index]
    crowd = 200_000
    order = list(range(crowd))
    random.Random(7).shuffle(order)
    for start in range(0, crowd, 20_000):
        part = order[start : start + 20_000]
        client.zadd(KEYS.due("v1"), {f"u{n}": now_ms - crowd + n + 1 / 1024 for n in part})
    due = RefreshQueue(client, "v1", policy=AT_ONCE)
    taken = [name for _ in range(20) for name in names(due.lease(128, 60))]
    assert taken == [f"u{n}" for n in range(20 * 128)]
    # About 0.4 ms on a quiet machine; reading all of them takes 200 ms.
    assert client.info("commandstats")["cmdstat_fcall"]["usec_per_call"] < 50_000  # type: ignore[index]
    assert due.state().due == crowd - 20 * 128


def test_an_erased_user_stands_nowhere(client: redis.Redis) -> None:
    """Catches a user refreshed, or remembered, after the erasure."""
    policy = RefreshPolicy(events=2)
    due = RefreshQueue(client, "v1", policy=policy)
    mark(client, "leased", "waiting", "due", policy=policy)
    claims = {claim.user_id: claim for claim in due.lease(3, 60)}
    due.complete([claims["waiting"]])
    due.release([claims["due"]])
    mark(client, "leased", "waiting", offset=9, policy=policy)
    assert due.state() == QueueState(1, 2, 1, pytest.approx(0, abs=60))
    HistoryStore(client, policy=policy).erase({"leased": 1, "waiting": 1, "due": 1}, V1)
    assert client.keys("*") == [KEYS.erased().encode()]
    assert due.complete([claims["leased"]]) == 0
    assert client.keys("*") == [KEYS.erased().encode()]


def test_a_quiet_user_stands_nowhere_and_is_never_refreshed(client: redis.Redis) -> None:
    """Catches a cost for users who do nothing: after the interval not even the time of their refresh is kept."""
    policy = RefreshPolicy(interval_s=0.05)
    due = RefreshQueue(client, "v1", policy=policy)
    mark(client, "a", "b", policy=policy)
    assert len(refresh(due)) == 2
    time.sleep(0.06)
    assert refresh(due) == []
    assert not client.exists(KEYS.due("v1"), KEYS.waiting("v1"), KEYS.leased("v1"), KEYS.refreshed("v1"))


def test_none_is_forgotten_or_leased_twice_whatever_happens(client: redis.Redis) -> None:
    """Catches any order of events, claims, crashes, releases and completions that loses a user's last event."""
    policy = RefreshPolicy(events=3, stale_s=0.05, interval_s=0.01)
    due, rng = RefreshQueue(client, "v1", policy=policy), random.Random(3)
    users, open_ = [f"u{n}" for n in range(12)], {}
    unseen: dict[str, int] = dict.fromkeys(users, 0)
    at_claim: dict[str, int] = {}
    for step in range(600):
        match rng.randrange(5):
            case 0 | 1:
                user = rng.choice(users)
                mark(client, user, offset=10 * step, events=rng.randrange(1, 4), policy=policy)
                unseen[user] += 1
            case 2:
                lease_s, before = rng.choice([0.005, 60]), time.monotonic()
                for claim in due.lease(3, lease_s):
                    held = open_.get(claim.user_id)
                    assert held is None or time.monotonic() >= held[1], "leased twice"
                    open_[claim.user_id] = (claim, before + lease_s - 0.002)  # the server counts whole ms
                    at_claim[claim.user_id] = unseen[claim.user_id]
            case 3 | 4 if open_:
                user = rng.choice(sorted(open_))
                claim, _ = open_.pop(user)
                if rng.random() < 0.6:
                    if due.complete([claim]):
                        unseen[user] -= at_claim[user]
                else:
                    due.release([claim])
    for claim, _ in open_.values():
        due.release([claim])
    time.sleep(0.07)
    last: set[str] = set()
    for _ in range(20):
        last |= set(refresh(due, 50))
        time.sleep(0.01)
    assert last >= {user for user, count in unseen.items() if count}
    assert (due.size(), due.leased()) == (0, 0)


def test_names_that_are_not_ascii_survive(client: redis.Redis) -> None:
    """Catches an id read in the wrong encoding."""
    mark(client, "ü ser")
    assert names(RefreshQueue(client, "v1").lease(1, 60)) == ["ü ser"]


def test_a_foreign_claim_is_ignored(client: redis.Redis) -> None:
    """Catches a completion of what was never leased."""
    assert RefreshQueue(client, "v1").complete([Lease("never", "1")]) == 0
