"""What the lane tests on the real broker share: topics, records in, records out, committed offsets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams.errors import kafka_retriable
from streams.kafka.lag import watermarks
from streams.kafka.producer import KafkaProducer
from streams.kafka.record import SourceRecord
from streams.kafka.topics import Topics
from streams.settings import Settings


def make_topics(settings: Settings) -> Topics:
    """Create the topics of `settings` on its broker."""
    topics = Topics(settings)
    topics.create({"bootstrap.servers": settings.kafka.servers})
    return topics


def make_topic(kafka: str, name: str, partitions: int = 1) -> None:
    """Create one plain topic."""
    with AdminClient({"bootstrap.servers": kafka}) as admin:
        for future in admin.create_topics([NewTopic(name, partitions, 1)]).values():
            future.result()


def send_all(settings: Settings, topic: str, records: Sequence[tuple[bytes | None, bytes | None]]) -> None:
    """Produce `(key, value)` pairs and wait until all are confirmed."""
    with closing(KafkaProducer(settings)) as producer:
        for future in [producer.send(topic, key, value) for key, value in records]:
            future.result(timeout=20)


def read_all(kafka: str, topic: str) -> list[SourceRecord]:
    """Everything in `topic` now, by partition and offset."""
    config = {"bootstrap.servers": kafka, "group.id": "reader", "enable.auto.commit": False, "fetch.wait.max.ms": 20}
    consumer = Consumer(config)
    try:
        found: list[SourceRecord] = []
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        for partition in partitions:
            place = TopicPartition(topic, partition)
            low, high = watermarks(consumer, place, 10)
            if high == low:
                continue
            consumer.assign([TopicPartition(topic, partition, low)])
            position = low
            while position < high:
                for message in consumer.consume(500, timeout=0.2):
                    assert message.error() is None
                    found.append(SourceRecord.of_message(message))
                    position = message.offset() + 1
        return found
    finally:
        consumer.close()


def committed(kafka: str, group: str, topic: str, partition: int = 0) -> int | None:
    """The offset a group has committed; None where it has none."""
    # Not AdminClient.list_consumer_group_offsets: librdkafka 2.16 crashes in it while the coordinator is loading.
    # A consumer that never subscribes does not join the group.
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": group})
    deadline = time.monotonic() + 10
    try:
        while True:
            try:
                offset: int = consumer.committed([TopicPartition(topic, partition)], timeout=10)[0].offset
                break
            except KafkaException as error:  # the coordinator of a broker's first group moves for a moment
                if not kafka_retriable(error.args[0]) or time.monotonic() > deadline:
                    raise
            time.sleep(0.1)
    finally:
        consumer.close()
    return None if offset < 0 else offset


async def until(condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> None:
    """Wait for `condition` without holding up the loop; fails naming `what`."""
    deadline = time.monotonic() + timeout_s
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        await asyncio.sleep(0.1)
