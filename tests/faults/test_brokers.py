"""Brokers and Redis that die under load: what was confirmed stays, and everything is worked on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.embedded.kafka import KafkaServer
from streams.lanes.base import Context
from streams.rebuild.run import Rebuild
from streams.rebuild.verify import verify
from tests import servers
from tests.faults.audit import audit
from tests.faults.brokers import Cluster, kill
from tests.faults.load import Load, Sender
from tests.faults.report import ROWS, Row, told
from tests.faults.world import World

pytestmark = pytest.mark.timeout(600)

MakeWorld = Callable[..., World]


def test_a_broker_killed_and_started_again_costs_time_only(broker: KafkaServer, make_world: MakeWorld) -> None:
    """Catches a lane that ends with its broker, records confirmed and gone, and positions that run ahead."""
    world = make_world(broker)
    load = Load(world.settings, items=500, events=60_000, users=1_000, seed=2)
    worker = world.worker()
    sender = Sender(world.settings, load.records, rate=3_000)
    recovery = []
    for _ in range(3):
        time.sleep(4.0)
        ends = world.ends()
        kill(broker)
        time.sleep(2.0)
        broker.start()
        recovery.append(world.caught_up_s(ends))
    bad = sender.finish()
    world.settle()
    assert worker.runs, "no worker may end because its broker is away"
    found = audit(world.settings, world.client, load, bad)
    ROWS.append(Row.of("broker kill -9, restart", told(load), 3, found, recovery))
    assert found.clean, str(found)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with servers.required(Cluster(tmp_path)) as cluster:
        yield cluster


def test_a_leader_killed_in_a_cluster_of_three(cluster: Cluster, make_world: MakeWorld) -> None:
    """Catches results that only the dead leader had, and a producer that calls one copy durable."""
    world = make_world(cluster, replication=3)
    load = Load(world.settings, items=500, events=60_000, users=1_000, seed=3)
    worker = world.worker()
    sender = Sender(world.settings, load.records, rate=3_000)
    recovery = []
    for partition in range(3):
        time.sleep(4.0)
        leader = cluster.leader(world.topics.user_events, partition)
        ends = world.ends()
        kill(leader)
        recovery.append(world.caught_up_s(ends))
        leader.start()
        time.sleep(3.0)
    bad = sender.finish()
    world.settle()
    assert worker.runs
    found = audit(world.settings, world.client, load, bad)
    ROWS.append(Row.of("1 of 3 brokers kill -9, a leader", told(load), 3, found, recovery))
    assert found.clean, str(found)


def test_redis_killed_and_empty_again_is_rebuilt(broker: KafkaServer, make_world: MakeWorld) -> None:
    """Catches what only Redis knew, a worker that ends with it, and a rebuild that loses to live traffic."""
    world = make_world(broker)
    load = Load(world.settings, items=500, events=60_000, users=1_000, seed=4)
    worker = world.worker()
    sender = Sender(world.settings, load.records, rate=3_000)
    recovery = []
    for _ in range(2):
        time.sleep(6.0)
        assert world.valkey.child is not None
        os.kill(world.valkey.child.pid, signal.SIGKILL)
        world.valkey.kill()
        time.sleep(2.0)
        began = time.monotonic()
        world.valkey.restart()
        asyncio.run(rebuild(world))
        recovery.append(time.monotonic() - began)
    bad = sender.finish()
    world.settle()
    assert worker.runs, "no worker may end because Redis is away"
    found = audit(world.settings, world.client, load, bad)
    context = Context(world.settings)
    report = verify(context)
    asyncio.run(context.close())
    ROWS.append(Row.of("Valkey kill -9, empty, rebuild", told(load), 2, found, recovery))
    assert found.clean, str(found)
    assert report.total == 0, report


async def rebuild(world: World) -> None:
    context = Context(world.settings)
    try:
        await Rebuild(context).run(asyncio.Event())
    finally:
        await context.close()
