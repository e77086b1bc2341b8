"""The real Kafka and Valkey start, answer, keep what they must keep, and leave nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from local.stack import java
from local.stack.kafka import KafkaServer
from local.stack.process import ServiceError
from local.stack.valkey import ValkeyServer
from streams.settings import Settings
from tests.local.stack.test_process import gone


def _read_all(address: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    values: list[bytes] = []
    for _ in range(100):
        values += [m.value() for m in consumer.consume(count, 0.2) if m.error() is None]
        if len(values) >= count:
            break
    consumer.close()
    return values


def _create(address: str, topic: str, partitions: int = 1) -> None:
    with AdminClient({"bootstrap.servers": address}) as admin:
        admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(20)


def test_kafka_serves_what_was_produced(kafka: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}round-trip"
    _create(kafka, topic, 2)
    producer = Producer({"bootstrap.servers": kafka, "acks": "all"})
    for i in range(10):
        producer.produce(topic, key=str(i).encode(), value=str(i).encode())
    assert producer.flush(20) == 0
    assert sorted(_read_all(kafka, topic, 10)) == [str(i).encode() for i in range(10)]


def test_a_valkey_of_ones_own_is_empty(valkey: str) -> None:
    with redis.Redis.from_url(valkey) as client:
        assert client.dbsize() == 0
        assert client.function_list() == []
        client.set("left", "behind")  # the next test's server must not see it


def test_the_next_valkey_is_empty_too(valkey: str) -> None:
    with redis.Redis.from_url(valkey) as client:
        assert client.get("left") is None


def test_a_kept_valkey_has_its_data_after_a_restart(tmp_path: Path) -> None:
    with ValkeyServer(folder=tmp_path) as first, redis.Redis.from_url(first.url) as client:
        client.set("key", "value")
    assert gone(first.child.pid)
    with ValkeyServer(folder=tmp_path, port=first.port) as second, redis.Redis.from_url(second.url) as client:
        assert client.get("key") == b"value"
        assert second.port == first.port


def test_a_kept_kafka_has_its_records_after_a_restart_on_other_ports(kafka: str, tmp_path: Path) -> None:
    """`kafka` is asked for only so that this test skips, or fails, where there is no broker to be had."""
    home = Settings.load().home
    with KafkaServer(home, folder=tmp_path) as first:
        _create(first.address, "t")
        producer = Producer({"bootstrap.servers": first.address, "acks": "all"})
        producer.produce("t", value=b"kept")
        assert producer.flush(20) == 0
    assert gone(first.child.pid)
    with KafkaServer(home, folder=tmp_path) as second:
        assert second.port != first.port
        assert _read_all(second.address, "t", 1) == [b"kept"]


def test_a_wrong_kafka_home_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    with pytest.raises(ServiceError, match=re.escape(f"KAFKA_HOME is '{tmp_path}'")):
        java.find_jars(tmp_path)


def test_without_maven_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServiceError, match="apt-get install maven"):
        java.prepare_jars(tmp_path)


def test_a_failed_fetch_leaves_nothing_that_looks_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text("#!/bin/sh\necho no route to the registry\nexit 1\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{maven.parent}{os.pathsep}/usr/bin:/bin")
    with pytest.raises(ServiceError, match=r"(?s)could not fetch Kafka.*no route to the registry"):
        java.prepare_jars(tmp_path / "home")
    assert java.find_jars(tmp_path / "home") is None
    assert not list((tmp_path / "home" / "kafka").glob(".fetch-*"))


def test_an_old_java_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_392\"' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.java_version(str(old)) == 8
    assert java.find_java() != str(old)
