"""Secrets are nowhere to be read: logs, errors, metrics, dead letters, answers; and nothing listens beyond loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from local.stack.process import ChildProcess, free_port
from streams.kafka.producer import KafkaProducer
from streams.kafka.topics import Topics
from streams.settings import SettingError, Settings, every_setting
from tests.support.lane_tools import make_topics, read_all

MARK = "mark-of-a-secret"
REPOSITORY = Path(__file__).parents[1]
SECRETS = [one.joined for one in every_setting() if one.field.metadata["secret"]]
URLS = [one.joined for one in every_setting() if one.field.metadata["url"]]


def marked(name: str) -> str:
    scheme = "redis" if name == "redis_url" else "http"
    return MARK if name in SECRETS else f"{scheme}://user:{MARK}@127.0.0.1:9/0"


def test_no_setting_shows_its_secret() -> None:
    """Catches a new secret that nobody masked, in a repr or in the error about it."""
    assert len(SECRETS) >= 3
    given = {name: marked(name) for name in [*SECRETS, *URLS]}
    more = {"kafka_security": "sasl_ssl", "kafka_username": "u"}
    shown = repr(Settings.load({}, **given, **more))
    assert MARK not in shown
    assert shown.count("***@") == len(URLS)
    for name in URLS:
        with pytest.raises(SettingError) as error:
            Settings.load({}, **{name: f"nonsense:{MARK}@host"})
        assert MARK not in str(error.value), name


def command(*arguments: str, **settings: str) -> str:
    """Everything a command says, whatever it ends with."""
    environment = {**os.environ, **{f"FRESHET_{name.upper()}": value for name, value in settings.items()}}
    argv = [sys.executable, "-m", "cli", *arguments]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=90, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("versions", "list"), ("dlq", "list"), ("rebuild", "--verify"), ("features", "get", "item", "i"), ("erase", "u")],
    ids=" ".join,
)
def test_a_command_whose_neighbors_refuse_says_no_secret(kafka: str, arguments: tuple[str, ...]) -> None:
    """Catches a traceback or an error message with a URL in it, password and all."""
    said = command(*arguments, kafka=kafka, redis=marked("redis_url"), registry=marked("registry_url"))
    assert said
    assert MARK not in said


def test_a_failing_worker_says_no_secret_and_listens_on_loopback_alone(
    kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    """Catches a password in a log line, a metric or a dead letter; and a port open to the network."""
    settings = Settings.load({}, kafka=kafka, topic_prefix=topic_prefix, partitions=1)
    topics: Topics = make_topics(settings)
    producer = KafkaProducer(settings)
    producer.send(topics.items, b"k", b"bad").result(20)
    producer.close()
    port = free_port()
    environment = {
        **os.environ,
        "FRESHET_KAFKA": kafka, "FRESHET_TOPIC_PREFIX": topic_prefix, "FRESHET_HOME": str(tmp_path),
        "FRESHET_REDIS": marked("redis_url"), "FRESHET_LLM": marked("llm_url"), "FRESHET_METRICS__PORT": str(port),
        "FRESHET_LOG_LEVEL": "DEBUG",
    }  # fmt: skip
    argv = [sys.executable, "-m", "tests.support.lane_process", "item-text,item-distill,user-events,sink"]
    worker = ChildProcess("worker", argv, log=tmp_path / "log", env=environment, cwd=REPOSITORY)
    worker.start()
    try:
        deadline, metrics = time.monotonic() + 30, ""
        while "freshet_retries_total{" not in metrics and time.monotonic() < deadline:
            time.sleep(0.5)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    metrics = answer.read().decode()
            except OSError:
                continue
        assert "freshet_retries_total{" in metrics, (tmp_path / "log").read_text()[-2_000:]
        assert set(listening(worker.pid)) == {"0100007F"}, "hexadecimal of 127.0.0.1"
    finally:
        worker.stop()
    assert MARK not in metrics
    assert MARK not in (tmp_path / "log").read_text()
    for record in read_all(kafka, topics.dead_letters(topics.items)):
        assert MARK.encode() not in (record.value or b"")


def listening(pid: int) -> list[str]:
    """The addresses that a process listens on, as /proc has them."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(fd.readlink().name)
        except OSError:
            continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in inodes:
                found.append(columns[1].rpartition(":")[0])
    return found
