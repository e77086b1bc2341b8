"""What workers depend on, misbehaving under load: the language model, the network, the clock, the broker's disk."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from local.stack.kafka import KafkaServer
from local.stack.process import ServiceError
from schemas.codec import Codec
from streams.jobs.dead_letters.read import StoredDeadLetter, dead_letter_ranges, read_dead_letters
from streams.jobs.dead_letters.resend import send_again
from streams.kafka.producer import KafkaProducer
from streams.settings import Settings
from tests.faults.brokers import kill
from tests.faults.network import Network
from tests.faults.trial import Trial
from tests.faults.world import World
from tests.support import servers
from tests.support.fakes_llm import FakeLlmServer

pytestmark = pytest.mark.timeout(600)

MakeWorld = Callable[..., World]
ITEM_LANES = ("item-text", "item-distill", "sink")


def test_a_language_model_that_is_slow_busy_broken_or_away(broker: KafkaServer, make_world: MakeWorld) -> None:
    """Catches items lost, or dead-lettered, because the model was away; and letters that cannot be sent again."""
    world = make_world(broker, partitions=2)
    with FakeLlmServer() as llm:
        world.ready(world.worker(ITEM_LANES, LLM=llm.url, LLM_TIMEOUT_S="3"))
        trial = Trial(world, seed=5, rate=100, events=0, users=0)
        llm.trouble.always = "truncated"  # what no retry mends
        time.sleep(4.0)
        for trouble in ("429", "503", "garbage", "hang"):
            llm.trouble.always = trouble
            time.sleep(4.0)
            ends = world.ends([world.topics.items])
            llm.trouble.always = ""
            trial.recovery.append(world.caught_up_s(ends))
        llm.trouble.delay_s = 1.0  # slow
        time.sleep(4.0)
        llm.trouble.delay_s = 0.0
        trial.finish(refreshed=False)
        dead_letters = distinct(world, "invalid_knowledge")
        assert dead_letters, "the model's broken answers should have made dead letters"
        producer = KafkaProducer(world.settings)
        send_again(producer, dead_letters, pace=lambda: None, sent=lambda _: None)
        producer.close()
        world.settle(refreshed=False)
    again = {tuple(dead_letter.position) for dead_letter in dead_letters}
    trial.audit("LLM 429, 503, garbage, hanging, slow, truncated", 6, refreshed=False, mended=again)


def distinct(world: World, reason: str) -> list[StoredDeadLetter]:
    topic = world.topics.dead_letters(world.topics.items)
    found = read_dead_letters(world.settings, Codec(), dead_letter_ranges(world.settings, topic))
    return [dead_letter for dead_letter in found if dead_letter.reason == reason]


@pytest.fixture
def network() -> Iterator[Network]:
    made = Network()
    try:
        yield made.start()
    finally:
        made.stop()


class NetworkBroker(KafkaServer):
    """A broker that is reached by an address of its own."""

    host = ""

    def _properties(self, data: Path) -> str:
        text = super()._properties(data)
        return text.replace(f"PLAINTEXT://127.0.0.1:{self.port}", f"PLAINTEXT://{self.host}:{self.port}")

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def healthy(self) -> bool:
        """As `KafkaServer.healthy`, at its own address."""
        from local.stack.kafka import broker_answers

        return broker_answers(self.address)


def test_a_network_that_is_cut(network: Network, make_world: MakeWorld) -> None:
    """Catches work done twice with an older result on top, and a worker that never finds back."""
    server = NetworkBroker(Settings.load().home)
    server.host = network.broker_host
    with servers.required(server) as broker:
        world = make_world(broker, redis_host=network.redis_host)
        world.worker(inside=network.prefix)
        world.worker()  # gets the partitions of the one that is cut off, and gives them back
        trial = Trial(world, seed=6, rate=2_000)
        for wire in ("broker", "redis", "broker"):
            time.sleep(5.0)
            ends = world.ends()
            network.cut(wire)
            time.sleep(10.0)  # longer than the session: the group goes on without it
            network.mend(wire)
            trial.recovery.append(world.caught_up_s(ends))
        trial.finish()
        assert all(worker.runs for worker in world.workers)
        trial.audit("network cut to broker, to Redis", 3)
        world.close()  # while there is a network to say goodbye in


def test_a_clock_that_jumps(broker: KafkaServer, make_world: MakeWorld, tmp_path: Path) -> None:
    """Catches leases, sessions, deletions or refreshes that hang on the worker's wall clock."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    world = make_world(broker)
    world.ready(world.worker(environment={"LANE_CLOCK_FILE": str(clock)}))
    trial = Trial(world, seed=7, rate=2_000)
    for offset in ("-3600", "0"):  # an hour back, and right again, which is an hour ahead
        time.sleep(5.0)
        ends = world.ends()
        clock.write_text(offset)
        trial.recovery.append(world.caught_up_s(ends))
    trial.finish()
    trial.audit("clock an hour back, an hour ahead", 2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        servers.needs_privileges(f"a small file system needs root: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(file: Path) -> None:
    """Take all that is free."""
    with file.open("ab", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(65_536))


def test_a_broker_whose_disk_is_full(small_disk: Path, make_world: MakeWorld) -> None:
    """Catches records called confirmed that no disk has, and a worker that ends with its broker."""
    with servers.required(KafkaServer(Settings.load().home, folder=small_disk, durable=False)) as broker:
        world = make_world(broker)
        worker = world.worker()
        trial = Trial(world, seed=8, rate=2_000)
        time.sleep(6.0)
        ends = world.ends()
        filler = small_disk / "filler"
        fill(filler)
        deadline = time.monotonic() + 60
        assert broker.child is not None
        while broker.child.running and time.monotonic() < deadline:
            time.sleep(0.5)
            fill(filler)
        assert not broker.child.running, "a broker without a disk that works should have ended"
        filler.unlink()
        began = time.monotonic()
        try:
            broker.start()
        except ServiceError:
            kill(broker)
            broker.start()
        world.caught_up_s(ends)
        trial.recovery.append(time.monotonic() - began)
        trial.finish()
        assert worker.runs
        trial.audit("full disk of the broker", 1)
        world.close()
