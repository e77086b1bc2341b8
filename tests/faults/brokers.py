"""Brokers to be killed: one, and three that replicate.

Owns their start and how they fail.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from confluent_kafka.admin import AdminClient

from local.stack.kafka import KafkaServer, broker_answers
from local.stack.process import HOST, ChildProcess, free_port
from streams.settings import Settings

BROKERS = 3
_REPLICATED = """
offsets.topic.replication.factor=3
min.insync.replicas=2
default.replication.factor=3
unclean.leader.election.enable=false
replica.lag.time.max.ms=5000
broker.session.timeout.ms=6000
controller.quorum.election.timeout.ms=1500
controller.quorum.fetch.timeout.ms=2000
"""


def kill(server: KafkaServer) -> None:
    """`kill -9`; `start` brings it back on the same port, with what is on its disk."""
    assert server.child is not None
    os.kill(server.child.pid, signal.SIGKILL)
    server.child.stop()


class Replica(KafkaServer):
    """One node of a `Cluster`: broker and controller."""

    def __init__(self, home: Path, folder: Path, node: int, cluster: Cluster) -> None:
        super().__init__(home, folder=folder, durable=False)
        self.node, self.controller_port, self._cluster = node, free_port(), cluster
        self.cluster_id = cluster.id or self.cluster_id

    def _properties(self, data: Path) -> str:
        lines = dict(line.split("=", 1) for line in super()._properties(data).splitlines() if "=" in line)
        lines |= {
            "node.id": str(self.node),
            "controller.quorum.voters": ",".join(
                f"{one.node}@{HOST}:{one.controller_port}" for one in self._cluster.nodes
            ),
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self.controller_port}",
        }
        lines |= dict(line.split("=", 1) for line in _REPLICATED.split())
        return "".join(f"{name}={value}\n" for name, value in lines.items())

    def healthy(self) -> bool:
        """True once it runs: it answers when two of them do."""
        return self.child is not None and self.child.running


class Cluster:
    """Three brokers; a record is confirmed when two of them have it."""

    def __init__(self, folder: Path) -> None:
        home = Settings.load().home
        self.id = ""
        self.nodes: list[Replica] = []
        for node in range(1, BROKERS + 1):
            self.nodes.append(Replica(home, folder / f"broker{node}", node, self))
            self.id = self.nodes[0].cluster_id

    @property
    def address(self) -> str:
        return ",".join(node.address for node in self.nodes)

    def start(self) -> str:
        """Start all and wait until each one answers."""
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            child: ChildProcess | None = node.child
            assert child is not None
            child.wait_ready(lambda node=node: broker_answers(node.address), 90.0)  # type: ignore[misc]
        return self.address

    def stop(self) -> None:
        """End all."""
        for node in self.nodes:
            node.stop()

    def leader(self, topic: str, partition: int = 0) -> Replica:
        """Who leads a partition now."""
        with AdminClient({"bootstrap.servers": self.address}) as admin:
            found = admin.list_topics(topic, timeout=10).topics[topic]
        return self.nodes[found.partitions[partition].leader - 1]
