"""The audit itself: each kind of loss that it is there to find, made on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from freshet.layout import Keys
from freshet.records import ItemFeatures, ItemTier
from local.stack.kafka import KafkaServer
from store.feature_writer import FeatureWriter
from store.histories import HistoryBatch, HistoryEvent, HistoryStore, QueuedVersions
from tests.faults.audit import audit
from tests.faults.load import Load, Record, Sender
from tests.faults.report import Row, page, table
from tests.faults.world import World

pytestmark = pytest.mark.timeout(300)
KEYS = Keys("f")


def test_the_table_has_every_row() -> None:
    """Catches twenty minutes of faults whose result cannot be printed."""
    row = Row("kill -9", "1 event", 20, 1_234, 0, 0, 56, 7, (1.5, 2.5))
    assert table([row]).splitlines()[-1] == "| kill -9 | 1 event | 20 | 1,234 | 0 | 0 | 56 | 7 | 2.0 / 2.5 |"
    assert "1,234" in page([row], "today")


def test_the_audit_finds_what_is_lost(broker: KafkaServer, make_world: Callable[..., World]) -> None:
    """Catches an audit that is content with anything."""
    world = make_world(broker)
    load = Load(world.settings, items=60, events=3_000, users=100, bad=2.0)
    world.worker()
    bad = Sender(world.settings, load.records, rate=float("inf")).finish()
    world.settle()
    client = world.client
    assert audit(world.settings, client, load, bad).clean

    items, users = sorted(load.truth.items), sorted(load.truth.events)
    gone = sorted(load.truth.deleted)[0]
    client.delete(KEYS.item("v1", items[0]), KEYS.knowledge("v1", items[1]), KEYS.item("v1", items[2]))
    client.delete(KEYS.item("v1", gone), KEYS.user("v1", users[0]))
    older = [
        ItemFeatures(one, "v1", ItemTier.KNOWLEDGE, load.began_ms - 1, 0, 16, bytes(32)) for one in (items[2], gone)
    ]
    FeatureWriter(client).put_items(older)
    client.zremrangebyrank(KEYS.history(users[1]), -1, -1)
    [erased] = sorted(load.truth.erased)[:1]
    client.delete(KEYS.erased())  # else it is refused
    back = HistoryEvent(erased, items[0], "view", load.began_ms, "back")
    HistoryStore(client).append(HistoryBatch.of([back]), QueuedVersions(["v1"]))
    place, record = next(iter(bad.items()))
    bad[place] = Record(record.topic, record.key, b"another value", good=False)
    invented = (record.topic, 0, 10**9)
    bad[invented] = record

    left = len(history(world, users[1]))
    found = audit(world.settings, client, load, bad)
    assert sorted(found.lost) == sorted(
        [
            f"item {items[0]} is absent",
            f"knowledge {items[1]} is absent",
            f"the deletion of item {gone}",
            f"features of user {users[0]}",
            f"user {users[1]}: 1 events missing, {left} of {left + 1} there",
            f"user {erased}: 0 events missing, 1 of 0 there",
            "1 users are due and nobody refreshes them",
            *[f"the dead letter of {place} is not its record"] * letters_of(record.topic),
            f"the dead letter of {invented}",
        ]
    )
    assert [one.split(" is of")[0] for one in found.older] == [f"item {items[2]}"]


def history(world: World, user: str) -> list[bytes]:
    rows: list[bytes] = world.client.zrange(KEYS.history(user), 0, -1)
    return rows


def letters_of(topic: str) -> int:
    """Two lanes read items: each has a letter of its own."""
    return 2 if topic.endswith("items") else 1
