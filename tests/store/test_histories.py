from __future__ import annotations

import random
import struct

import pytest
import redis

from freshet.layout import Keys
from store import histories
from store.histories import History, HistoryBatch, HistoryEvent, HistoryStore, QueuedVersions, pack, unpack_member
from store.refresh_queue import RefreshQueue

V1 = QueuedVersions(["v1"])


@pytest.fixture
def client(valkey):
    with redis.Redis.from_url(valkey) as client:
        yield client


def event(user="u", item="i", time=1_000, offset=0, **more):
    return HistoryEvent(user, item, "view", time, offset=offset, **more)


def items(store, user="u"):
    return store.load([user])[0].item_ids


def test_records_are_laid_out_byte_by_byte_as_documented():
    # Catches a change of layout that would orphan every stored history.
    by_offset = pack(HistoryEvent("u", "ab", "buy", 5, partition=3, offset=7))
    assert by_offset == struct.pack(">qI", 5, 20) + b"\0" + b"\0\0\0\3" + b"\0" * 7 + b"\7" + b"\0\2ab" + b"buy"
    by_event = pack(HistoryEvent("u", "ab", "buy", 5, event_id="é"))
    assert by_event == struct.pack(">qI", 5, 12) + b"\1\0\2" + "é".encode() + b"\0\2ab" + b"buy"
    assert unpack_member(by_offset[12:]) == unpack_member(by_event[12:]) == ("ab", "buy")


def test_an_id_too_long_for_the_layout_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        pack(event(item="x" * 70_000))


def test_histories_come_back_oldest_first_and_ties_in_the_order_of_the_log(client):
    store = HistoryStore(client)
    store.append(HistoryBatch.of([event(item=f"i{n}", time=50 if n < 300 else 40, offset=n) for n in (2, 256, 1, 301)]))
    assert store.load(["u", "nobody"]) == [
        History("u", ("i301", "i1", "i2", "i256"), ("view",) * 4, (40, 50, 50, 50)),
        History("nobody", (), (), ()),
    ]


def test_what_stands_is_the_newest_of_all_whatever_the_order_and_however_often(client):
    # Catches loss or doubling under redelivery, late events and differently cut batches.
    rng = random.Random(7)
    sent = [event(item=f"i{n}", time=rng.randrange(1_000, 1_200), offset=n) for n in range(300)]
    newest = [e.item_id for e in sorted(sent, key=lambda e: (e.event_time, e.offset))[-50:]]
    for prefix in "abc":
        store = HistoryStore(client, prefix, length=50)
        deliveries = sent + rng.sample(sent, 200)
        rng.shuffle(deliveries)
        while deliveries:
            cut = rng.randrange(1, 80)
            store.append(HistoryBatch.of(deliveries[:cut]))
            deliveries = deliveries[cut:]
        assert items(store) == tuple(newest)


def test_the_event_id_is_the_identity_where_there_is_one(client):
    # Catches a producer's retry (new offset, same event) being stored twice.
    store = HistoryStore(client)
    assert store.append(HistoryBatch.of([event(event_id="e1", offset=1)])) == 1
    assert store.append(HistoryBatch.of([event(event_id="e1", offset=9), event(event_id="e2", offset=10)])) == 1
    assert len(items(store)) == 2


def test_a_redelivered_batch_does_not_make_its_users_due_again(client):
    store, queue = HistoryStore(client), RefreshQueue(client, "v1")
    batch = HistoryBatch.of([event("a"), event("b")])
    store.append(batch, V1)
    leases = queue.lease(10, 60)
    assert {lease.user_id for lease in leases} == {"a", "b"}
    assert store.append(batch, V1) == 0
    assert queue.size() == 0


def test_erasing_in_a_batch_drops_the_past_and_keeps_what_follows(client):
    store, queue = HistoryStore(client), RefreshQueue(client, "v1")
    store.append(HistoryBatch.of([event("a", "old"), event("b", "old")]), V1)
    assert len(queue.lease(1, 60)) == 1
    store.append(HistoryBatch.of([event("a", "new", offset=5)], erased={"a": 1, "b": 1}), V1)
    assert items(store, "a") == ("new",)
    assert items(store, "b") == ()
    assert [lease.user_id for lease in queue.lease(10, 60)] == ["a"]
    store.erase({"a": 2}, V1)
    keys = Keys("f")
    assert not client.exists(
        keys.history("a"), keys.due("v1"), keys.waiting("v1"), keys.leased("v1"), keys.refreshed("v1")
    )


def test_a_batch_larger_than_a_call_is_cut_and_nothing_is_lost(client, monkeypatch):
    # Catches an off-by-one where one user's events, or the users, go over a call's bounds.
    monkeypatch.setattr(histories, "EVENTS_PER_CALL", 7)
    monkeypatch.setattr(histories, "USERS_PER_CALL", 3)
    store = HistoryStore(client, length=1_000)
    sent = [event(f"u{n % 5}", f"i{n}", offset=n) for n in range(60)] + [event("lone", offset=99)]
    batch = HistoryBatch.of(sent, erased={"u0": 1, "gone": 1})
    calls = list(store._calls(batch, V1))
    assert all(len(keys) <= 6 + 3 and len(args) == 8 + 3 * (len(keys) - 6) for keys, args in calls)
    assert store.append(batch) == len(sent)
    assert items(store, "u3") == tuple(f"i{n}" for n in range(3, 60, 5))
    assert items(store, "u0") == tuple(f"i{n}" for n in range(0, 60, 5))


def test_a_full_size_call_stays_within_the_limits_of_lua(client):
    # Catches a raised cap that makes `unpack` fail on the server.
    store = HistoryStore(client, length=10_000)
    assert store.append(HistoryBatch.of([event(item=f"i{n}", offset=n) for n in range(2_500)])) == 2_500


def test_the_functions_come_back_after_the_server_lost_them(client):
    # Catches a lane that fails for ever once Redis restarted empty.
    store = HistoryStore(client)
    store.append(HistoryBatch.of([event()]))
    client.function_flush()
    client.flushall()
    assert store.append(HistoryBatch.of([event()])) == 1


def test_a_history_expires_without_writes(client):
    HistoryStore(client, ttl_s=100).append(HistoryBatch.of([event()]))
    assert 95_000 < client.pttl(Keys("f").history("u")) <= 100_000


def test_an_empty_batch_asks_nothing_of_the_server():
    assert HistoryStore(redis.Redis(port=1)).append(HistoryBatch.of([])) == 0


def test_every_history_is_scanned_once(client):
    """Catches a scan that gives another prefix's users, one twice, or none after the first page."""
    store = HistoryStore(client)
    store.append(HistoryBatch.of([event(f"u:{n}", offset=n) for n in range(1_200)] + [event("ü")]))
    HistoryStore(client, "fh").append(HistoryBatch.of([event("stranger")]))
    found = [history.user_id for history in store.scan(batch=100)]
    assert sorted(found) == sorted([*(f"u:{n}" for n in range(1_200)), "ü"])
