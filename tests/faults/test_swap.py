"""A new version filled by a replay of everything, activated and rolled back, under live traffic and constant reads."""

from __future__ import annotations

import copy
import random
import threading
import time
from collections.abc import Callable

import pytest

from freshet import FeatureReader
from freshet.clock import wall_clock
from freshet.results import FeatureRead
from local.stack.kafka import KafkaServer
from store.versions import Versions
from streams.kafka.producer import kafka_config
from streams.kafka.topics import Topics
from tests.faults.audit import audit
from tests.faults.load import Load, Sender
from tests.faults.report import ROWS, Row, told
from tests.faults.trial import EVENTS, ITEMS, USERS
from tests.faults.world import World
from tests.support import command_line

pytestmark = pytest.mark.timeout(600)

DIMS = {"v1": 16, "v2": 8}
"""Two widths, so that a vector says whose it is."""


class Reading:
    """Reads all the time on a thread of its own, as a ranker does, and notes what a ranker must never see."""

    def __init__(self, world: World, load: Load) -> None:
        self._url, self._load = world.settings.redis.url, load
        self.reads, self.wrong = dict.fromkeys(DIMS, 0), list[str]()
        self._newest: dict[tuple[str, str], float] = {}
        self._read_ms = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        chance = random.Random(3)
        users = sorted(self._load.truth.events)
        with FeatureReader(self._url, timeout_s=5.0, clock=self._clock) as reader:
            while not self._stop.is_set():
                ids = [f"i{chance.randrange(self._load.items)}" for _ in range(50)]
                self._check(ids, reader.read(chance.choice(users), ids))
                time.sleep(0.002)

    def _clock(self) -> int:
        """The timestamp that ages are counted to: a look at the clock afterwards is late where the machine is busy."""
        self._read_ms = wall_clock()
        return self._read_ms

    def _check(self, ids: list[str], found: FeatureRead) -> None:
        version, width, now = found.version, found.item_matrix.shape[1], self._read_ms / 1_000
        if not version or found.partial or not (found.present.any() or found.user.present):
            return  # nothing was written yet: there is no width to speak of
        self.reads[version] += 1
        user = found.user
        if width != DIMS[version] or (user.present and len(user.log_vector) != DIMS[version]):
            self.wrong.append(f"vectors of {width} and {len(user.log_vector)} values in an answer of {version}")
        for one, here, age in zip(ids, found.present, found.age_seconds, strict=True):
            if here:
                timestamp = now - float(age)  # states of an item are a second apart
                if timestamp < self._newest.get((version, one), 0.0) - 0.5:
                    self.wrong.append(f"{one} in {version} became older")
                self._newest[version, one] = timestamp


def seen_as(world: World, version: str) -> World:
    """The same deployment, as the workers of another version see it."""
    other = copy.copy(world)
    other.settings = world.settings.replace(version=version, dims=DIMS[version])
    other.topics, other.workers = Topics(other.settings), []
    return other


def freshet(world: World, *arguments: str) -> None:
    """The command line, as an operator uses it."""
    names = ("kafka", "redis", "topic_prefix", "history_length")
    told = {name: world.settings.value(name) for name in names}
    command_line.freshet(*arguments, **told, home=world.folder)


def test_a_version_is_filled_activated_and_rolled_back_under_traffic(
    broker: KafkaServer, make_world: Callable[..., World]
) -> None:
    """Catches an answer of two versions, a feature that becomes older, and a version that lacks what came meanwhile."""
    world = make_world(broker)
    load = Load(world.settings, items=ITEMS, events=EVENTS, users=USERS, seed=9)
    world.ready(world.worker())
    sender = Sender(world.settings, load.records, rate=1_500)
    world.until(lambda: bool(Versions(world.client).active()), "the first version", 60)
    reading = Reading(world, load)
    time.sleep(10.0)

    freshet(world, "versions", "create", "v2")
    new = seen_as(world, "v2")
    new.topics.create(kafka_config(new.settings))
    made = new.worker(VERSION="v2", DIMS="8")
    world.workers.append(made)
    new.ready(made)
    ends = new.ends([new.topics.items])
    # The users; the items of a new version come by themselves, from the beginning of their compacted topic.
    freshet(world, "replay", "--into", "v2", "--topic", "user-events", "--execute")
    new.caught_up_s(ends)
    for _ in range(5):
        freshet(world, "versions", "activate", "v2", "--force")
        time.sleep(0.5)
        freshet(world, "versions", "rollback")
        time.sleep(0.5)
    freshet(world, "versions", "activate", "v2", "--force")
    sender.hurry()
    bad = sender.finish()
    world.settle()
    new.settle()
    time.sleep(1.0)
    reading.end()
    assert reading.wrong == [], sorted(set(reading.wrong))[:5]
    assert min(reading.reads.values()) > 50, reading.reads
    found = audit(world.settings, world.client, load, bad)
    second = audit(new.settings, world.client, load, bad)
    assert found.clean, str(found)
    assert second.clean, str(second)
    found.checked += second.checked
    reads = f"{sum(reading.reads.values()):,} reads"
    ROWS.append(Row.of("shadow version filled, 6 swaps, 5 back", f"{told(load)}, {reads}", 11, found))
