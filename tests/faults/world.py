"""A deployment to be hurt: its own Kafka and Valkey, workers as processes, and where each lane stands.

Owns starting, killing and waiting. Must not know what is sent, nor judge what comes of it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import redis
from confluent_kafka import Consumer, KafkaException, TopicPartition

from local.stack.process import HOST, ChildProcess, log_tail
from store.refresh_queue import RefreshQueue
from streams.kafka.lag import watermarks
from streams.kafka.producer import kafka_config
from streams.kafka.topics import Topics
from streams.lanes.table import LANES, subscriptions
from streams.settings import Settings
from tests.support.topologies import Node

REPOSITORY = Path(__file__).parents[2]
ALL_LANES = tuple(LANES)
Partition = tuple[str, int]
# As short as the load of two cores allows: a killed worker's partitions wait for it.
SESSION_S = 6.0


class Worker:
    """One worker process with fake models, `tests.support.lane_process`."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        name: str,
        lanes: Sequence[str],
        *,
        inside: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **variables: str,
    ) -> None:
        """`inside` is put before the command, `variables` are settings, `environment` is more of its environment."""
        self.lanes = tuple(lanes)
        self.name, self.log = name, folder / f"{name}.log"
        self._argv = [*inside, sys.executable, "-m", "tests.support.lane_process", ",".join(lanes)]
        told = {
            "KAFKA": settings.kafka.servers, "REDIS": settings.redis.url, "TOPIC_PREFIX": settings.topic_prefix,
            "HOME": str(folder), "DIMS": str(settings.vectors.dims), "HISTORY_LENGTH": str(settings.history.length),
            "SESSION_TIMEOUT_S": str(settings.kafka.session_timeout_s), "REFRESH_INTERVAL_S": "2",
            "LEASE_S": "5", "DEAD_LETTERS_RUN": "1000000", "LLM_CONCURRENCY": "64",
        }  # fmt: skip
        wanted = {f"FRESHET_{key}": value for key, value in {**told, **variables}.items()}
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", **wanted, **(environment or {})}
        self.child: ChildProcess | None = None

    def start(self) -> Worker:
        """Start it, again if it was ended; it may take seconds until it reads."""
        child = self.child = ChildProcess(
            self.name, self._argv, log=self.log, env=self._environment, cwd=REPOSITORY, grace_s=20
        )
        child.start()
        return self

    def kill(self) -> None:
        """`kill -9`."""
        assert self.child is not None
        os.kill(self.child.pid, signal.SIGKILL)
        self.child.stop()

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        if self.child is not None:
            self.child.stop()

    @property
    def runs(self) -> bool:
        return self.child is not None and self.child.running


class Addressed(Protocol):
    """A broker, or several."""

    @property
    def address(self) -> str: ...


class World:
    """Kafka, Valkey and workers of one test; all of them end with it."""

    def __init__(self, folder: Path, kafka: Addressed, *, redis_host: str = HOST, **overrides: Any) -> None:
        self.folder = folder
        self.valkey = Node(options=["--bind", *{HOST, redis_host}, "--protected-mode", "no"])
        url = self.valkey.start().replace(HOST, redis_host)
        wanted = {"session_timeout_s": SESSION_S, "dims": 16, "history_length": 200, **overrides}
        self.settings = Settings.load({}, kafka=kafka.address, redis=url, **wanted)
        self.client = redis.Redis.from_url(self.settings.redis.url, socket_timeout=10)
        self.topics = Topics(self.settings)
        self.topics.create(kafka_config(self.settings))
        self.workers: list[Worker] = []

    def worker(self, lanes: Sequence[str] = ALL_LANES, **options: Any) -> Worker:
        """Start another worker; see `Worker`."""
        made = Worker(self.settings, self.folder, f"worker{len(self.workers)}", lanes, **options)
        self.workers.append(made)
        return made.start()

    def ready(self, worker: Worker, timeout_s: float = 60.0) -> None:
        """Wait until all lanes of a worker have started."""
        self.until(lambda: "worker runs" in worker.log.read_text(), f"{worker.name} to start", timeout_s)

    def close(self) -> None:
        """End everything."""
        for worker in self.workers:
            worker.stop()
        self.client.close()
        self.valkey.stop()

    def ends(self, topics: Sequence[str] = ()) -> dict[Partition, int]:
        """The end of each partition (default: of all topics that lanes read)."""
        with self._consumer("freshet-faults") as consumer:
            wanted = topics or sorted({topic for one in subscriptions(self.settings) for topic in one.topics})
            return {
                (topic, p): watermarks(consumer, TopicPartition(topic, p), 10)[1]
                for topic in wanted
                for p in range(self.settings.kafka.partitions)
            }

    def behind(self, ends: Mapping[Partition, int]) -> int:
        """How many records before `ends` the lanes of our workers have not acknowledged, all together."""
        left = 0
        run = {lane for worker in self.workers for lane in worker.lanes}
        for one in subscriptions(self.settings, run):
            partitions = [TopicPartition(*tp) for tp in ends if tp[0] in one.topics]
            with self._consumer(one.group) as consumer:
                for at in consumer.committed(partitions, timeout=10):
                    left += max(0, ends[at.topic, at.partition] - max(0, at.offset))
        return left

    def caught_up_s(self, ends: Mapping[Partition, int], timeout_s: float = 120.0) -> float:
        """Seconds until everything before `ends` is acknowledged."""
        began = time.monotonic()
        self.until(lambda: self.behind(ends) == 0, "what was there at the fault to be acknowledged", timeout_s)
        return time.monotonic() - began

    def settle(self, timeout_s: float = 240.0, *, refreshed: bool = True) -> None:
        """Wait until nothing is left to do: all of every topic acknowledged, and (`refreshed`) nobody due."""
        due = RefreshQueue(self.client, self.settings.version, self.settings.key_prefix)

        def quiet() -> bool:
            return self.behind(self.ends()) == 0 and not (refreshed and due.size() + due.leased())

        # Twice: between two lanes a record is on no topic.
        for _ in range(2):
            self.until(quiet, "everything to be worked on", timeout_s)
            time.sleep(1.0)

    def until(self, holds: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait for `holds`, whatever a broker or Redis that is away raises; fails with the workers' logs."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if holds():
                    return
            except (KafkaException, redis.RedisError):
                pass
            if time.monotonic() > deadline:
                logs = "\n".join(f"{worker.name}:\n{log_tail(worker.log, 12)}" for worker in self.workers)
                raise AssertionError(f"waited {timeout_s:g} s for {what}\n{logs}")
            time.sleep(0.2)

    @contextmanager
    def _consumer(self, group: str) -> Iterator[Consumer]:
        consumer = Consumer(kafka_config(self.settings, **{"group.id": group, "enable.auto.commit": False}))
        try:
            yield consumer
        finally:
            consumer.close()
