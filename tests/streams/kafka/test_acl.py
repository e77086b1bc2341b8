"""The ACL lines of the page on security, on the real broker: each role can do its work, and not another's."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from freshet.header import decode_header
from freshet.records import Item, UserEvent
from local.stack.process import log_tail
from schemas.codec import Codec
from streams.kafka.lag import watermarks
from streams.kafka.producer import KafkaProducer, kafka_config
from streams.kafka.topics import Topics
from streams.settings import Settings
from tests.support import command_line, servers
from tests.support.secured_kafka import REPOSITORY, SecuredKafka, running, scram, start

pytestmark = pytest.mark.timeout(300)
PAGE = REPOSITORY / "docs" / "use" / "operators" / "security.md"
WORDS = {role: f"{role}-word" for role in ("platform", "worker", "operator")}
TOLD = (
    "kafka", "redis", "kafka_security", "kafka_ca_file", "kafka_username", "kafka_password", "dims", "partitions",
)  # fmt: skip
AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    # The controller's own listener, which no client reaches, has no users.
    "super.users": "User:admin;User:ANONYMOUS",
}


def documented() -> list[AclBinding]:
    """The lines of the page, as Kafka takes them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--allow-principal", required=True)
    parser.add_argument("--operation", action="append", required=True)
    parser.add_argument("--topic")
    parser.add_argument("--group")
    parser.add_argument("--resource-pattern-type", default="literal")
    made = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("--allow-principal"):
            one = parser.parse_args(shlex.split(line))
            kind = ResourceType.TOPIC if one.topic else ResourceType.GROUP
            pattern = ResourcePatternType[one.resource_pattern_type.upper()]
            made += [
                AclBinding(
                    kind, one.topic or one.group, pattern, one.allow_principal, "*",
                    AclOperation[operation.upper()], AclPermissionType.ALLOW,
                )
                for operation in one.operation
            ]  # fmt: skip
    return made


@pytest.fixture
def roles(valkey: str, tmp_path: Path) -> Iterator[Callable[[str], Settings]]:
    """Settings of a role, on a broker that knows the documented ACLs and nothing else."""
    listener, properties, options = scram(WORDS)
    with servers.required(SecuredKafka(tmp_path / "tls", listener, {**properties, **AUTHORIZER}, *options)) as server:
        admin = Settings.load(
            {}, kafka=server.address, redis=valkey, dims=8, partitions=1, kafka_security="sasl_ssl",
            kafka_username="admin", kafka_password="admin-password", kafka_ca_file=str(server.ca_file),
        )  # fmt: skip
        with running(server, admin):
            with AdminClient(kafka_config(admin)) as client:
                for made in client.create_acls(documented()).values():
                    made.result(30)
            yield lambda role: admin.replace(kafka_username=role, kafka_password=WORDS[role])


def freshet(settings: Settings, *arguments: str) -> str:
    """What the command line says, to the role of `settings`."""
    told = {name: settings.value(name) for name in TOLD}
    return command_line.freshet(*arguments, **told, llm="http://127.0.0.1:9/v1")


def send(settings: Settings, *records: tuple[str, bytes, bytes | None]) -> None:
    with closing(KafkaProducer(settings)) as producer:  # also where a role is refused
        for future in [producer.send(*record) for record in records]:
            future.result(30)


def begin(settings: Settings, topic: str) -> int:
    """The first offset that is still there."""
    consumer = Consumer(kafka_config(settings, **{"group.id": "freshet-test", "enable.auto.commit": False}))
    try:
        return watermarks(consumer, TopicPartition(topic, 0), 10)[0]
    finally:
        consumer.close()


def may_read(settings: Settings, topic: str) -> bool:
    consumer = Consumer(kafka_config(settings, **{"group.id": "freshet-test", "enable.auto.commit": False}))
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(10.0)
        assert message is not None, "neither a record nor a refusal"
        return message.error() is None
    except KafkaException:
        return False
    finally:
        consumer.close()


def test_each_role_can_do_its_work_and_no_other(roles: Callable[[str], Settings], tmp_path: Path) -> None:
    """Catches a line that lacks a right a lane or a command needs, and one that grants another role's."""
    platform, worker, operator = roles("platform"), roles("worker"), roles("operator")
    topics, codec, now = Topics(worker), Codec(), time.time_ns() // 1_000_000
    freshet(operator, "topics", "create")
    send(
        platform,
        (topics.items, b"i1", codec.encode(Item("i1", now, "Oat drink"))),
        (topics.items, b"bad", b"bad"),
        *(
            (topics.user_events, user, codec.encode(UserEvent(user.decode(), "i1", "view", now)))
            for user in (b"u1", b"u2")
        ),
        (topics.user_events, b"gone-user", b"bad"),
        (topics.user_events, b"gone-user", None),
    )
    child = start(
        worker, tmp_path, FRESHET_KAFKA_USERNAME="worker", FRESHET_KAFKA_PASSWORD=WORDS["worker"],
        TEST_SWEEP_S="1",
    )  # fmt: skip

    def until(holds: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + 90
        while not holds():
            assert time.monotonic() < deadline, f"{what}\n{log_tail(child.log, 20)}"
            time.sleep(0.2)

    def lettered() -> set[str]:
        return {one["topic"] for one in json.loads(freshet(operator, "dlq", "list", "--json"))["groups"]}

    with redis.Redis.from_url(worker.redis.url) as client:
        until(lambda: client.exists("f:v1:k:i1") and client.exists("f:v1:u:u1"), "features")
        until(lambda: topics.dead_letters(topics.items) in lettered(), "a dead letter")
        until(lambda: begin(operator, topics.dead_letters(topics.user_events)) > 0, "the erased user's letter to go")
        child.stop()
        assert child.returncode() == 0, log_tail(child.log, 20)
        freshet(operator, "erase", "u2", "--execute")
        freshet(operator, "dlq", "replay", "--execute")
        freshet(operator, "dlq", "purge", "--all", "--execute")
        client.flushdb()
        freshet(operator, "rebuild", "--version", "v1")
        freshet(operator, "rebuild", "--version", "v1", "--verify")
        freshet(operator, "versions", "create", "v2")
        freshet(operator, "replay", "--into", "v2")
        assert client.exists("f:v1:k:i1")
        erased = decode_header(client.get("f:v1:u:u2"))
        assert erased is None or erased.deleted

    for topic in (topics.item_features, topics.user_features, topics.item_knowledge):
        assert may_read(worker, topic), topic
        assert not may_read(platform, topic), topic
    for forger, topic in ((platform, topics.item_features), (worker, topics.items), (worker, topics.user_events)):
        with pytest.raises(KafkaException, match="authoriz"):
            send(forger, (topic, b"i1", b"forged"))
    for role in (platform, worker):
        with AdminClient(kafka_config(role)) as client_of_role, pytest.raises(KafkaException, match="authoriz"):
            client_of_role.delete_topics([topics.items])[topics.items].result(30)
