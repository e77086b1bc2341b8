"""A whole deployment for end-to-end tests: topics, settings, and workers as processes that can be killed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from freshet.records import Item, UserEvent
from local.demo.run import environment
from local.stack.process import ChildProcess, log_tail
from schemas.codec import Codec
from streams.kafka.lag import GroupLag
from streams.kafka.producer import KafkaProducer, kafka_config
from streams.kafka.topics import Topics
from streams.lanes.table import consumer_groups
from streams.settings import Settings


@dataclass
class Deployment:
    """Settings, and the workers started so far; `stop` ends them all."""

    settings: Settings
    folder: Path
    workers: list[ChildProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.topics = Topics(self.settings)
        self.topics.create({"bootstrap.servers": self.settings.kafka.servers})
        self._lag = GroupLag(kafka_config(self.settings), consumer_groups(self.settings))

    def worker(self, *options: str) -> ChildProcess:
        """Start a worker and wait until its lanes run."""
        log = self.folder / f"worker{len(self.workers)}.log"
        argv = [sys.executable, "-m", "cli", "worker", *options]
        worker = ChildProcess("worker", argv, log=log, env=environment(self.settings), grace_s=20.0)
        self.workers.append(worker)
        worker.start()
        worker.wait_ready(lambda: "worker runs" in log.read_text(), timeout_s=90.0)
        return worker

    def freshet(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one `freshet` command to its end."""
        command = [sys.executable, "-m", "cli", *arguments]
        return subprocess.run(
            command, env=environment(self.settings), capture_output=True, text=True, timeout=120, check=False
        )

    def send(self, records: Sequence[Item | UserEvent | tuple[str, bytes | None, bytes | None]]) -> None:
        """Produce items, events, or `(topic, key, value)` as they are, and wait for every confirmation."""
        codec, producer, futures = Codec(), KafkaProducer(self.settings), []
        for record in records:
            if isinstance(record, tuple):
                topic, key, value = record
            elif isinstance(record, Item):
                topic, key, value = self.topics.items, record.item_id.encode(), codec.encode(record, self.topics.items)
            else:
                topic, key = self.topics.user_events, record.user_id.encode()
                value = codec.encode(record, topic)
            futures.append(producer.send(topic, key, value))
        for future in futures:
            future.result(timeout=60)
        producer.close()

    def lag(self) -> dict[str, int]:
        """Records each consumer group is behind."""
        return self._lag.read()

    def drained(self) -> bool:
        """Whether every lane has acknowledged everything."""
        return not any(self.lag().values())

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 90.0) -> None:
        """Wait for `condition`; fails with the last worker's log."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            log = log_tail(self.workers[-1].log, 30) if self.workers else ""
            assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}; lag {self.lag()}\n{log}"
            time.sleep(0.2)

    def stop(self) -> None:
        """End every worker."""
        for worker in self.workers:
            worker.stop()
        self._lag.close()
