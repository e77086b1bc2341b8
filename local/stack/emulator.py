"""The last resort where Kafka's jars cannot be had: the emulator `noida-db`, for a demo only.

Owns its command line. It never expels a killed group member and may lose its last second: nothing that it runs
under may be claimed of Kafka.
"""

from __future__ import annotations

import importlib.util
import stat
from pathlib import Path

from local.stack.kafka import broker_answers
from local.stack.process import HOST, ChildProcess, ServiceError, answers, free_port


def find_emulator() -> Path | None:
    """The binary inside the wheel, None when the wheel is not installed."""
    spec = importlib.util.find_spec("noida_db")
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).with_name("noida-db")
    return binary if binary.exists() else None


class KafkaEmulator:
    """Speaks enough of Kafka's protocol for one worker of the demo; the same shape as `KafkaServer`."""

    name = "kafka"
    hung_after_s: float | None = None
    about = "noida-db, an emulator of Kafka: demo only, not durable"

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self._folder = folder
        self._wanted_port = port
        self.child: ChildProcess | None = None
        self.port = 0

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def start(self, timeout_s: float = 20.0) -> str:
        """Start, or start again on the same port, and wait until it answers; returns its address."""
        binary = find_emulator()
        if binary is None:
            raise ServiceError("no Kafka emulator: pip install noida-db")
        binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port(self.port or self._wanted_port)
        only = [
            "--only",
            "kafka",
            "--kafka-port",
            str(self.port),
            "--host",
            HOST,
            "--data-dir",
            str(self._folder / "data"),
        ]
        self.child = ChildProcess(
            "noida-db", [str(binary), "start", *only], log=self._folder / "kafka.log", grace_s=5.0
        )
        self.child.start()
        self.child.wait_ready(self.healthy, timeout_s)
        return self.address

    def healthy(self) -> bool:
        """True when it answers a metadata request."""
        return answers(HOST, self.port) and broker_answers(self.address)

    def stop(self) -> None:
        """End it; what it holds in memory is saved if it has the time. May be called twice."""
        if self.child is not None:
            self.child.stop()
