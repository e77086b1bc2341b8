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


def enqueue(
    client: redis.Redis, *users: str, offset: int = 0, events: int = 1, policy: RefreshPolicy = AT_ONCE
) -> None:
    new = [HistoryEvent(user, "i", "view", 1_000, offset=offset + n) for user in users for n in range(events)]
    HistoryStore(client, policy=policy).append(HistoryBatch.of(new), V1)


def names(leases: Sequence[Lease]) -> list[str]:
    return [lease.user_id for lease in leases]


def refresh(queue: RefreshQueue, limit: int = 1_000) -> list[str]:
    """Lease and complete."""
    leases = queue.lease(limit, 60)
    assert queue.complete(leases) == len(leases)
    return names(leases)


def test_nobody_due_gives_no_leases(client: redis.Redis) -> None:
    """Catches a server-side call without users, which Lua would refuse."""
    queue = RefreshQueue(client, "v1", policy=AT_ONCE)
    assert queue.lease(10, 60) == queue.lease(0, 60) == []
    assert queue.complete([]) == queue.release([]) == 0
    assert queue.state() == QueueState(0, 0, 0, 0.0)


def test_a_leased_user_is_not_leased_again(client: redis.Redis) -> None:
    """Catches two workers on one user."""
    queue = RefreshQueue(client, "v1", policy=AT_ONCE)
    enqueue(client, "a", "b", "c")
    first, second, third = queue.lease(2, 60), queue.lease(2, 60), queue.lease(2, 60)
    assert (len(first), len(second), third) == (2, 1, [])
    assert (queue.size(), queue.leased()) == (0, 3)
    assert sorted(names(first + second)) == ["a", "b", "c"]


def test_workers_that_lease_at_once_never_share_a_user(client: redis.Redis, valkey: str) -> None:
    """Catches a lease that is taken in two steps."""
    users = [f"u{n}" for n in range(600)]
    enqueue(client, *users)
    taken: list[str] = []

    def work() -> None:
        with redis.Redis.from_url(valkey) as own:
            while leases := RefreshQueue(own, "v1", policy=AT_ONCE).lease(7, 60):
                taken.extend(names(leases))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(users)


def test_a_dead_workers_users_come_back_and_its_late_answer_counts_for_nothing(client: redis.Redis) -> None:
    """Catches users lost with their worker, and a lease ended by one who no longer holds it."""
    queue = RefreshQueue(client, "v1", policy=AT_ONCE)
    enqueue(client, "a", "b")
    dead = queue.lease(10, SHORT_LEASE_S)
    assert queue.lease(10, 60) == []
    time.sleep(PAST_LEASE_S)
    alive = queue.lease(10, 60)
    assert sorted(names(alive)) == ["a", "b"]
    assert queue.complete(dead) == 0
    assert queue.release(dead) == 0
    assert queue.lease(10, 60) == []  # still under the second lease
    assert queue.complete(alive) == 2


def test_events_during_the_lease_leave_the_user_due_afterwards(client: redis.Redis) -> None:
    """Catches a refresh that swallows the events it did not see."""
    queue = RefreshQueue(client, "v1", policy=AT_ONCE)
    enqueue(client, "a")
    leases = queue.lease(10, 60)
    enqueue(client, "a", offset=1)
    assert queue.lease(10, 60) == []
    assert queue.state().waiting == 1
    queue.complete(leases)
    assert names(queue.lease(10, 60)) == ["a"]


def test_a_user_is_refreshed_at_most_once_an_interval_and_then_again(client: redis.Redis) -> None:
    """Catches a busy user refreshed all the time, and one that is never refreshed again."""
    policy = RefreshPolicy(interval_s=0.6)
    queue = RefreshQueue(client, "v1", policy=policy)
    enqueue(client, "a", policy=policy)
    assert refresh(queue) == ["a"]
    enqueue(client, "a", offset=1, policy=policy)
    assert queue.lease(10, 60) == []
    assert queue.size() == 1
    time.sleep(0.65)
    assert names(queue.lease(10, 60)) == ["a"]


def test_the_interval_holds_whoever_enqueued_the_user(client: redis.Redis) -> None:
    """Catches an interval or a lease that only the writer of events looks after: an older release does not."""
    queue = RefreshQueue(client, "v1")
    enqueue(client, "a", "b")
    [first] = queue.lease(1, 60)
    assert refresh(queue) == ["b" if first.user_id == "a" else "a"]
    client.zadd(KEYS.due("v1"), {"a": 1, "b": 1})
    assert queue.lease(10, 60) == []
    assert queue.state().waiting == 2


def test_users_that_must_wait_do_not_hide_the_ones_behind_them(client: redis.Redis) -> None:
    """Catches a lease that only ever looks at the same few, whichever release enqueued them."""
    queue = RefreshQueue(client, "v1")
    early = [f"e{n}" for n in range(20)]
    enqueue(client, *early)
    assert len(refresh(queue)) == 20
    enqueue(client, *early[:10], offset=1, policy=RefreshPolicy())
    client.zadd(KEYS.due("v1"), dict.fromkeys(early[10:], 1.0))
    time.sleep(0.002)
    enqueue(client, "late")
    assert names(queue.lease(5, 60)) == ["late"]


def test_enough_events_make_due_and_fewer_wait_until_the_features_are_stale(client: redis.Redis) -> None:
    """Catches a threshold that counts calls, one that never comes down to a slow user, and one for new users."""
    policy = RefreshPolicy(events=3, stale_s=1.0, interval_s=0)
    queue = RefreshQueue(client, "v1", policy=policy)
    enqueue(client, "busy", "slow", "quiet", policy=policy)
    assert sorted(refresh(queue)) == ["busy", "quiet", "slow"]  # never refreshed: nobody knows anything of them
    enqueue(client, "busy", "slow", offset=10, events=2, policy=policy)
    assert queue.lease(10, 60) == []
    enqueue(client, "busy", offset=20, policy=policy)
    assert refresh(queue) == ["busy"]
    enqueue(client, "busy", offset=30, events=2, policy=policy)  # the count begins anew with each refresh
    assert queue.lease(10, 60) == []
    time.sleep(1.05)
    assert sorted(refresh(queue)) == ["busy", "slow"]
    assert queue.state() == QueueState(0, 0, 0, 0.0)


def test_a_redelivered_event_does_not_count_twice(client: redis.Redis) -> None:
    """Catches a threshold reached by one event that came three times."""
    policy = RefreshPolicy(events=2, interval_s=0)
    queue = RefreshQueue(client, "v1", policy=policy)
    enqueue(client, "a", policy=policy)
    refresh(queue)
    for _ in range(3):
        enqueue(client, "a", offset=1, policy=policy)
    assert queue.lease(10, 60) == []


def test_more_active_users_go_first_among_equally_stale_ones(client: redis.Redis) -> None:
    """Catches an order by time alone, and one in which a due user's later events never count."""
    queue, policy = RefreshQueue(client, "v1"), RefreshPolicy()
    for user, *batches in (("calm", 1), ("busy", 12), ("busier", 1, 1, 2, 30)):
        for n, events in enumerate(batches):
            enqueue(client, user, offset=100 * n, events=events, policy=policy)
    assert names(queue.lease(10, 60)) == ["busier", "busy", "calm"]


def test_activity_counts_for_users_that_had_to_wait(client: redis.Redis) -> None:
    """Catches a bonus lost on the way from waiting to due."""
    policy = RefreshPolicy(interval_s=0.6)
    queue = RefreshQueue(client, "v1", policy=policy)
    enqueue(client, "calm", "busy", policy=policy)
    refresh(queue)
    enqueue(client, "calm", offset=10, policy=policy)
    for n in range(30):
        enqueue(client, "busy", offset=10 + n, policy=policy)
    time.sleep(0.65)
    assert names(queue.lease(1, 60)) == ["busy"]


def test_an_order_by_bonus_never_passes_over_users_who_wait_for_long(client: redis.Redis) -> None:
    """Catches starvation: the most active user there can be gains 4.2 intervals, and no more."""
    policy = RefreshPolicy(interval_s=10)
    enqueue(client, "busy", events=900, policy=policy)
    now_ms = 1_000 * int(client.time()[0])  # type: ignore[index]
    client.zadd(KEYS.due("v1"), {"longer": now_ms - 43_000 + 1 / 1024, "shorter": now_ms - 40_000 + 1 / 1024})
    assert names(RefreshQueue(client, "v1", policy=policy).lease(10, 60)) == ["longer", "busy", "shorter"]


def test_a_released_or_orphaned_user_keeps_its_place_in_the_queue(client: redis.Redis) -> None:
    """Catches a deployment that sends the users it interrupts behind a million others."""
    queue = RefreshQueue(client, "v1")
    for user in ("first", "second", "third"):
        enqueue(client, user, policy=RefreshPolicy())
        time.sleep(0.003)
    leases = queue.lease(1, 60)
    enqueue(client, "first", offset=9, policy=RefreshPolicy())
    assert queue.release(leases) == 1
    assert names(queue.lease(1, SHORT_LEASE_S)) == ["first"]
    time.sleep(PAST_LEASE_S)
    assert names(queue.lease(3, 60)) == ["first", "second", "third"]
    assert queue.state() == QueueState(0, 0, 3, 0.0)


def test_what_a_lease_costs_is_bounded_whatever_the_sets_hold(client: redis.Redis) -> None:
    """Catches a night's backlog worked off in one call, with everybody's reads behind it."""
    now_ms = 1_000 * int(client.time()[0])  # type: ignore[index]
    crowd = {f"{n}": now_ms - 100_000 + n / 10 for n in range(20_000)}
    for key in (KEYS.waiting("v1"), KEYS.refreshed("v1"), KEYS.leased("v1")):
        client.zadd(key, {f"{key}{name}": score for name, score in crowd.items()})  # type: ignore[arg-type]
    queue = RefreshQueue(client, "v1")
    leases = queue.lease(100, 60)
    assert sorted(names(leases)) == sorted(f"{KEYS.leased('v1')}{n}" for n in range(100))
    assert client.zcard(KEYS.waiting("v1")) == 20_000 - 164
    assert client.zcard(KEYS.refreshed("v1")) == 20_000 - 200
    assert client.zcard(KEYS.leased("v1")) == 20_000 - 100 + 100


def test_a_large_lease_is_cut_into_calls_and_nobody_is_lost(client: redis.Redis) -> None:
    """Catches more users in a call than Lua can unpack."""
    users = [f"u{n}" for n in range(5_000)]
    for start in range(0, 5_000, 1_000):
        enqueue(client, *users[start : start + 1_000])
    queue = RefreshQueue(client, "v1", policy=AT_ONCE)
    leases = queue.lease(10_000, 60)
    assert sorted(names(leases)) == sorted(users)
    assert queue.release(leases[:2_000]) == 2_000
    assert queue.complete(leases) == 3_000
    assert (queue.size(), queue.leased()) == (2_000, 0)


def test_a_burst_degrades_to_oldest_first(client: redis.Redis) -> None:
    """Catches a lease that reads the whole burst, or serves it in another order than that of the scores."""
    now_ms = 1_000 * int(client.time()[0])  # type: ignore[index]
    crowd = 200_000
    order = list(range(crowd))
    random.Random(7).shuffle(order)
    for start in range(0, crowd, 20_000):
        part = order[start : start + 20_000]
        client.zadd(KEYS.due("v1"), {f"u{n}": now_ms - crowd + n + 1 / 1024 for n in part})
    queue = RefreshQueue(client, "v1", policy=AT_ONCE)
    taken = [name for _ in range(20) for name in names(queue.lease(128, 60))]
    assert taken == [f"u{n}" for n in range(20 * 128)]
    # About 0.4 ms on a quiet machine; reading all of them takes 200 ms.
    assert client.info("commandstats")["cmdstat_fcall"]["usec_per_call"] < 50_000  # type: ignore[index]
    assert queue.state().due == crowd - 20 * 128


def test_an_erased_user_stands_nowhere(client: redis.Redis) -> None:
    """Catches a user refreshed, or remembered, after the erasure."""
    policy = RefreshPolicy(events=2)
    queue = RefreshQueue(client, "v1", policy=policy)
    enqueue(client, "leased", "waiting", "due", policy=policy)
    leases = {lease.user_id: lease for lease in queue.lease(3, 60)}
    queue.complete([leases["waiting"]])
    queue.release([leases["due"]])
    enqueue(client, "leased", "waiting", offset=9, policy=policy)
    assert queue.state() == QueueState(1, 2, 1, pytest.approx(0, abs=60))
    HistoryStore(client, policy=policy).erase({"leased": 1, "waiting": 1, "due": 1}, V1)
    assert client.keys("*") == [KEYS.erased().encode()]
    assert queue.complete([leases["leased"]]) == 0
    assert client.keys("*") == [KEYS.erased().encode()]


def test_a_quiet_user_stands_nowhere_and_is_never_refreshed(client: redis.Redis) -> None:
    """Catches a cost for users who do nothing: after the interval not even the time of their refresh is kept."""
    policy = RefreshPolicy(interval_s=0.05)
    queue = RefreshQueue(client, "v1", policy=policy)
    enqueue(client, "a", "b", policy=policy)
    assert len(refresh(queue)) == 2
    time.sleep(0.06)
    assert refresh(queue) == []
    assert not client.exists(KEYS.due("v1"), KEYS.waiting("v1"), KEYS.leased("v1"), KEYS.refreshed("v1"))


def test_none_is_forgotten_or_leased_twice_whatever_happens(client: redis.Redis) -> None:
    """Catches any order of events, leases, crashes, releases and completions that loses a user's last event."""
    policy = RefreshPolicy(events=3, stale_s=0.05, interval_s=0.01)
    queue, rng = RefreshQueue(client, "v1", policy=policy), random.Random(3)
    users, open_ = [f"u{n}" for n in range(12)], {}
    unseen: dict[str, int] = dict.fromkeys(users, 0)
    at_lease: dict[str, int] = {}
    for step in range(600):
        match rng.randrange(5):
            case 0 | 1:
                user = rng.choice(users)
                enqueue(client, user, offset=10 * step, events=rng.randrange(1, 4), policy=policy)
                unseen[user] += 1
            case 2:
                lease_s, before = rng.choice([0.005, 60]), time.monotonic()
                for lease in queue.lease(3, lease_s):
                    held = open_.get(lease.user_id)
                    assert held is None or time.monotonic() >= held[1], "leased twice"
                    open_[lease.user_id] = (lease, before + lease_s - 0.002)  # the server counts whole ms
                    at_lease[lease.user_id] = unseen[lease.user_id]
            case 3 | 4 if open_:
                user = rng.choice(sorted(open_))
                lease, _ = open_.pop(user)
                if rng.random() < 0.6:
                    if queue.complete([lease]):
                        unseen[user] -= at_lease[user]
                else:
                    queue.release([lease])
    for lease, _ in open_.values():
        queue.release([lease])
    time.sleep(0.07)
    last: set[str] = set()
    for _ in range(20):
        last |= set(refresh(queue, 50))
        time.sleep(0.01)
    assert last >= {user for user, count in unseen.items() if count}
    assert (queue.size(), queue.leased()) == (0, 0)


def test_names_that_are_not_ascii_survive(client: redis.Redis) -> None:
    """Catches an id read in the wrong encoding."""
    enqueue(client, "ü ser")
    assert names(RefreshQueue(client, "v1").lease(1, 60)) == ["ü ser"]


def test_a_foreign_lease_is_ignored(client: redis.Redis) -> None:
    """Catches a completion of what was never leased."""
    assert RefreshQueue(client, "v1").complete([Lease("never", "1")]) == 0
