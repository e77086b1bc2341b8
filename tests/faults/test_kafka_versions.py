"""The oldest broker that we support and the newest that we know, each killed under load: a minute a version."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from local.stack.java import KAFKA_VERSION, OLDEST_KAFKA
from local.stack.kafka import KafkaServer
from streams.settings import Settings
from tests.faults.brokers import kill
from tests.faults.trial import Trial
from tests.faults.world import World
from tests.support import servers

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(params=[OLDEST_KAFKA, KAFKA_VERSION])
def broker(request: pytest.FixtureRequest) -> Iterator[KafkaServer]:
    """A Kafka of each version; the one that is not embedded is fetched on first use."""
    with servers.required(KafkaServer(Settings.load().home, version=request.param)) as server:
        yield server


def test_a_broker_of_each_version_is_killed_and_loses_nothing(
    broker: KafkaServer, make_world: Callable[..., World]
) -> None:
    """Catches a client that a broker of that version does not understand, and what is lost only there."""
    world = make_world(broker)
    worker = world.worker()
    trial = Trial(world, seed=5, rate=3_000, items=600, events=40_000, users=600)
    time.sleep(4.0)
    ends = world.ends()
    kill(broker)
    worker.kill()
    broker.start()
    worker.start()
    trial.recovery.append(world.caught_up_s(ends))
    trial.finish()
    assert worker.runs
    trial.audit(f"{broker.about}: broker and worker kill -9", 1)
