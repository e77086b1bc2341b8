"""Workers that are killed, join and leave, under load: nothing lost, nothing older over newer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from local.stack.kafka import KafkaServer
from tests.faults.trial import Trial
from tests.faults.world import World

pytestmark = pytest.mark.timeout(900)

KILLS = 20


def test_a_worker_killed_twenty_times_loses_nothing(broker: KafkaServer, make_world: Callable[..., World]) -> None:
    """Catches records acknowledged before their result was durable, and an older state written over a newer one."""
    world = make_world(broker)
    worker = world.worker()
    trial = Trial(world, seed=0, rate=2_000)
    chance = random.Random(1)
    for _ in range(KILLS):
        time.sleep(chance.uniform(2.0, 6.0))
        ends = world.ends()
        worker.kill()
        worker.start()
        if chance.random() < 0.5:  # the others strike a worker that is starting, or in its first rebalance
            trial.recovery.append(world.caught_up_s(ends))
    trial.finish()
    found = trial.audit("worker kill -9", KILLS)
    assert found.dead_letters == len(trial.bad)


def test_workers_that_join_and_leave_lose_nothing(broker: KafkaServer, make_world: Callable[..., World]) -> None:
    """Catches records between two owners of a partition: acknowledged by one, worked on by neither."""
    world = make_world(broker, partitions=6)
    trial = Trial(world, seed=1, rate=2_500)
    workers = [world.worker()]
    chance, changes = random.Random(2), 0
    for step in range(10):
        time.sleep(chance.uniform(1.0, 4.0))
        ends = world.ends()
        running = [worker for worker in workers if worker.runs]
        if step == 0 or len(running) == 1:  # the second joins, and the third
            workers += [world.worker() for _ in range(2 if step == 0 else 1)]
        elif len(running) < 3 and chance.random() < 0.5:
            workers.append(world.worker())
        else:
            leaving = chance.choice(running)
            leaving.stop() if step % 2 else leaving.kill()
        changes += 1
        if step % 3 == 2:
            trial.recovery.append(world.caught_up_s(ends))
    trial.finish()
    trial.audit("2 and 3 workers join, leave, are killed", changes)
