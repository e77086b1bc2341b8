"""Workers that are killed, join and leave, under load: nothing lost, nothing older over newer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from streams.embedded.kafka import KafkaServer
from tests.faults.audit import audit
from tests.faults.load import Load, Sender
from tests.faults.report import ROWS, Row
from tests.faults.world import World

pytestmark = pytest.mark.timeout(900)

KILLS = 20


def test_a_worker_killed_twenty_times_loses_nothing(broker: KafkaServer, make_world: Callable[..., World]) -> None:
    """Catches records acknowledged before their result was durable, and an older state written over a newer one."""
    world = make_world(broker)
    load = Load(world.settings, items=3_000, events=300_000, users=3_000)
    worker = world.worker()
    sender = Sender(world.settings, load.records, rate=2_000)
    chance, recovery = random.Random(1), []
    for _ in range(KILLS):
        time.sleep(chance.uniform(2.0, 6.0))
        ends = world.ends()
        worker.kill()
        worker.start()
        if chance.random() < 0.5:  # the others strike a worker that is starting, or in its first rebalance
            recovery.append(world.caught_up_s(ends))
    sender.hurry()
    bad = sender.finish()
    world.settle()
    found = audit(world.settings, world.client, load, bad)
    ROWS.append(Row.of("worker kill -9", f"{load.events:,} events, {load.items:,} items", KILLS, found, recovery))
    assert found.clean, str(found)
    assert found.letters == len(bad)
