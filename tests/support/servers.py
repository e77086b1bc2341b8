"""Kafka and Valkey for tests: containers where a Docker Engine answers, child processes elsewhere.

One switch: FRESHET_TEST_SERVERS = auto (default) | docker | child. Owns nothing of the tests themselves.
"""

from __future__ import annotations

import gc
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import pytest
import redis

from local.stack.java import KAFKA_VERSION
from local.stack.kafka import KafkaServer, broker_answers
from local.stack.process import ServiceError, free_port
from local.stack.valkey import ValkeyServer
from streams.settings import Settings

KAFKA_IMAGE = f"apache/kafka:{KAFKA_VERSION}"
VALKEY_IMAGE = "valkey/valkey:9.1-alpine"


def missing(what: str) -> Any:
    """Skip aloud, or fail where FRESHET_REQUIRE_SERVERS=1 says that nothing may be skipped."""
    if os.environ.get("FRESHET_REQUIRE_SERVERS") == "1":
        pytest.fail(what)
    pytest.skip(what)


def needs_privileges(what: str) -> Any:
    """Skip aloud, whatever is required: not every machine lends its network, its mounts or its loader."""
    pytest.skip(what)


class Startable(Protocol):
    """What can be started for a test, and ended."""

    def start(self) -> str: ...

    def stop(self) -> None: ...


S = TypeVar("S", bound=Startable)


@contextmanager
def required(server: S) -> Iterator[S]:
    """`server`, started; the test is skipped aloud where that is not possible."""
    try:
        try:
            server.start()
        except ServiceError as error:
            missing(str(error))
        yield server
    finally:
        server.stop()


def _wait(ready: Callable[[], bool], what: str, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise ServiceError(f"the {what} container was not ready after {timeout_s:g} s")
        time.sleep(0.2)


def _engine_answers() -> bool:
    """Whether somebody listens where a Docker Engine would: spares a client that would only be refused."""
    if os.environ.get("DOCKER_HOST"):
        return True  # testcontainers finds out
    for path in ("/var/run/docker.sock", f"{os.environ.get('XDG_RUNTIME_DIR', '/run')}/docker.sock"):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except OSError:
                continue
            return True
    return False


def _start_container(image: str, port: int, host_port: int, env: dict[str, str]) -> tuple[Any, str]:
    """The started container, or None and why not."""
    from docker.errors import APIError, DockerException
    from testcontainers.core.container import DockerContainer

    try:
        container = DockerContainer(image).with_bind_ports(port, host_port)
        for name, value in env.items():
            container = container.with_env(name, value.format(port=host_port))
        return container.start(), ""
    except (DockerException, APIError) as error:  # no engine; an engine, but no such image
        return None, str(error)


@contextmanager
def _container(image: str, port: int, **env: str) -> Iterator[int | None]:
    """The host port of a started container; None where no Docker Engine or image is to be had."""
    mode = os.environ.get("FRESHET_TEST_SERVERS", "auto")
    if mode not in ("auto", "docker", "child"):
        pytest.fail(f"FRESHET_TEST_SERVERS is {mode!r}, wanted auto, docker or child")
    if mode == "child" or (mode == "auto" and not _engine_answers()):
        yield None
        return
    host_port = free_port()
    # testcontainers and docker warn of their own past at import, and a refused client leaves its socket to the
    # garbage collector; warnings are errors in this suite.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started, why = _start_container(image, port, host_port, env)
        gc.collect()
    if started is None:
        if mode == "docker":
            pytest.fail(f"FRESHET_TEST_SERVERS=docker, and {image} did not start: {why}")
        yield None
        return
    try:
        yield host_port
    finally:
        started.stop()


@contextmanager
def running_kafka() -> Iterator[str]:
    """A bootstrap address of a real Apache Kafka."""
    listeners = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }
    with _container(KAFKA_IMAGE, 9092, **listeners) as port:
        if port is not None:
            _wait(lambda: broker_answers(f"127.0.0.1:{port}"), "Kafka")
            yield f"127.0.0.1:{port}"
            return
    with required(KafkaServer(Settings.load().home)) as server:
        yield server.address


def _pings(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


@contextmanager
def valkey_container() -> Iterator[str | None]:
    """The URL of one shared container; None where there is no Docker Engine."""
    with _container(VALKEY_IMAGE, 6379) as port:
        if port is None:
            yield None
            return
        url = f"redis://127.0.0.1:{port}/0"
        _wait(lambda: _pings(url), "Valkey")
        yield url


@contextmanager
def fresh_valkey(container: str | None) -> Iterator[str]:
    """The URL of a server nobody has written to: a new child process (0.1 s), or the emptied container."""
    if container is not None:
        with redis.Redis.from_url(container) as client:
            client.flushall()
            client.function_flush()
        yield container
        return
    with required(ValkeyServer()) as server:
        yield server.url
