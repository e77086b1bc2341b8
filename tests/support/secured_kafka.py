"""A Kafka that asks who its clients are, and workers that tell it: for the tests of security.

Owns certificates, listeners and users of the broker. Must not judge what a worker does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from local.stack.kafka import KafkaServer
from local.stack.process import HOST, ChildProcess, answers, log_tail
from streams.kafka.producer import kafka_config
from streams.settings import Settings
from tests.support import topologies

PASSWORD = "hidden-in-every-log"
REPOSITORY = Path(__file__).parents[2]


class SecuredKafka(KafkaServer):
    """A broker whose listener is one of a kind; the certificates are those of `folder`."""

    def __init__(self, folder: Path, listener: str, properties: dict[str, str], *options: str) -> None:
        super().__init__(Settings.load().home)
        self._listener, self._properties_more, self.format_options = listener, properties, options
        folder.mkdir(parents=True, exist_ok=True)
        self._certificate, self._key = topologies.certificates(folder)
        self.ca_file = folder / "ca.pem"

    def _properties(self, data: Path) -> str:
        lines = dict(line.split("=", 1) for line in super()._properties(data).splitlines() if "=" in line)
        own = f"{self._listener}://127.0.0.1:{self.port}"
        controller = lines["listeners"].rpartition(",")[2]
        keystore = self._certificate.parent / "server.keystore.pem"
        keystore.write_text(self._key.read_text() + self._certificate.read_text())
        lines |= {
            "listeners": f"{own},{controller}",
            "advertised.listeners": own,
            "inter.broker.listener.name": self._listener,
            "listener.security.protocol.map": f"{self._listener}:{self._listener},CONTROLLER:PLAINTEXT",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca_file),
            **self._properties_more,
        }
        return "".join(f"{name}={value}\n" for name, value in lines.items())

    def healthy(self) -> bool:
        """True once it runs: it answers whom it knows."""
        return self.child is not None and self.child.running and answers(HOST, self.port)


@contextmanager
def running(server: SecuredKafka, settings: Settings) -> Iterator[None]:
    """Waits until the broker answers whoever `settings` say."""
    deadline = time.monotonic() + 60
    with AdminClient(kafka_config(settings)) as admin:
        while True:
            with suppress(KafkaException):
                admin.list_topics(timeout=5)
                break
            assert server.child is not None
            assert time.monotonic() < deadline, log_tail(server.child.log)
            time.sleep(0.5)
    yield


def scram(users: Mapping[str, str]) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """Listener, properties and options of a broker that knows `users` (and their passwords), and itself as `admin`."""
    login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    jaas = f'{login} username="admin" password="admin-password";'
    words = {"admin": "admin-password", **users}
    known = [f"SCRAM-SHA-512=[name={name},password={word}]" for name, word in words.items()]
    return (
        "SASL_SSL",
        {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": jaas,
        },
        tuple(part for user in known for part in ("--add-scram", user)),
    )


def start(settings: Settings, tmp_path: Path, **environment: str) -> ChildProcess:
    """A worker with all lanes and fake models; `environment` has its credentials."""
    told = {
        f"FRESHET_{name.upper()}": str(settings.value(name))
        for name in ("kafka", "redis", "kafka_security", "kafka_mechanism", "kafka_ca_file", "dims")
    }
    child = ChildProcess(
        "worker",
        [sys.executable, "-m", "tests.support.lane_process", "item-text,item-distill,user-events,user-refresh,sink"],
        log=tmp_path / "worker.log",
        env={**os.environ, **told, "FRESHET_HOME": str(tmp_path), "FRESHET_REFRESH_INTERVAL_S": "0", **environment},
        cwd=REPOSITORY,
        grace_s=20,
    )
    child.start()
    return child
