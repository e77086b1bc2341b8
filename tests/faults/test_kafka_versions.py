"""The oldest broker that we support and the newest that we know, each killed under load: a minute a version."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from local.stack.java import KAFKA_VERSION, OLDEST_KAFKA
from local.stack.kafka import KafkaServer
from streams.settings import Settings
from tests.faults.brokers import kill
from tests.faults.trial import Trial
from tests.faults.world import World
from tests.support import servers

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("version", [OLDEST_KAFKA, KAFKA_VERSION])
def test_a_broker_of_each_version_and_a_worker_are_killed(version: str, make_world: Callable[..., World]) -> None:
    """Catches a client that a broker of that version does not understand, and what is lost only there."""
    with servers.required(KafkaServer(Settings.load().home, version=version)) as broker:
        world = make_world(broker)
        worker = world.worker()
        trial = Trial(world, seed=5, rate=3_000, items=600, events=40_000, users=600)
        time.sleep(4.0)
        ends = world.ends()
        kill(broker)
        time.sleep(1.0)
        broker.start()
        worker.kill()
        worker.start()
        trial.recovery.append(world.caught_up_s(ends))
        trial.finish()
        assert worker.runs
        trial.audit(f"Kafka {version}: broker and worker kill -9", 1)
        for one in world.workers:
            one.stop()
