"""Brokers and Redis that die under load: what was confirmed stays, and everything is worked on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.stack.kafka import KafkaServer
from streams.jobs.rebuild.rebuilder import Rebuilder
from streams.jobs.rebuild.verify import verify
from streams.wiring.resources import Resources
from tests.faults.brokers import Cluster, kill
from tests.faults.trial import Trial
from tests.faults.world import World
from tests.support import servers

pytestmark = pytest.mark.timeout(600)

MakeWorld = Callable[..., World]


def test_a_broker_killed_and_started_again_costs_time_only(broker: KafkaServer, make_world: MakeWorld) -> None:
    """Catches a lane that ends with its broker, records confirmed and gone, and positions that run ahead."""
    world = make_world(broker)
    worker = world.worker()
    trial = Trial(world, seed=2, rate=3_000)
    for _ in range(3):
        time.sleep(4.0)
        ends = world.ends()
        kill(broker)
        time.sleep(2.0)
        broker.start()
        trial.recovery.append(world.caught_up_s(ends))
    trial.finish()
    assert worker.runs, "no worker may end because its broker is away"
    trial.audit("broker kill -9, restart", 3)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with servers.required(Cluster(tmp_path)) as cluster:
        yield cluster


def test_a_leader_killed_in_a_cluster_of_three(cluster: Cluster, make_world: MakeWorld) -> None:
    """Catches results that only the dead leader had, and a producer that calls one copy durable."""
    world = make_world(cluster, replication=3)
    worker = world.worker()
    trial = Trial(world, seed=3, rate=3_000)
    for partition in range(3):
        time.sleep(4.0)
        leader = cluster.leader(world.topics.user_events, partition)
        ends = world.ends()
        kill(leader)
        trial.recovery.append(world.caught_up_s(ends))
        leader.start()
        time.sleep(3.0)
    trial.finish()
    assert worker.runs
    trial.audit("1 of 3 brokers kill -9, a leader", 3)


def test_redis_killed_and_empty_again_is_rebuilt(broker: KafkaServer, make_world: MakeWorld) -> None:
    """Catches what only Redis knew, a worker that ends with it, and a rebuild that loses to live traffic."""
    world = make_world(broker)
    worker = world.worker()
    trial = Trial(world, seed=4, rate=3_000)
    for _ in range(2):
        time.sleep(6.0)
        assert world.valkey.child is not None
        os.kill(world.valkey.child.pid, signal.SIGKILL)
        world.valkey.kill()
        time.sleep(2.0)
        began = time.monotonic()
        world.valkey.restart()
        asyncio.run(rebuild(world))
        trial.recovery.append(time.monotonic() - began)
    trial.finish()
    assert worker.runs, "no worker may end because Redis is away"
    trial.audit("Valkey kill -9, empty, rebuild", 2)
    resources = Resources(world.settings)
    report = verify(resources)
    asyncio.run(resources.close())
    assert report.total == 0, report


async def rebuild(world: World) -> None:
    resources = Resources(world.settings)
    try:
        await Rebuilder(resources).run(asyncio.Event())
    finally:
        await resources.close()
