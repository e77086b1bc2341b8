"""The confirmed producer on the real broker, and what its errors mean."""

from __future__ import annotations

import asyncio
import os

import pytest
from confluent_kafka import KafkaError, KafkaException

from local.stack.process import free_port
from streams.errors import DeliveryFailed, Family, RecordTooLarge, family
from streams.kafka.producer import KafkaProducer, _delivery_error, delivered
from streams.settings import Settings
from tests.support.lane_tools import make_topic, read_all


@pytest.fixture
def settings(kafka: str, topic_prefix: str) -> Settings:
    return Settings.load({}, kafka=kafka, topic_prefix=topic_prefix)


async def test_a_confirmed_record_stands_where_it_says(settings: Settings) -> None:
    """Catches a future that ends before the broker has the record, or lost headers and time."""
    topic = f"{settings.topic_prefix}confirmed"
    make_topic(settings.kafka.servers, topic)
    producer = KafkaProducer(settings)
    futures = [
        producer.send(topic, b"k", b"%d" % n, headers=[("h", b"v")], timestamp=1_700_000_000_000) for n in range(100)
    ]
    places = await delivered(futures)
    producer.close()
    assert [place.offset for place in places] == list(range(100))
    found = await asyncio.to_thread(read_all, settings.kafka.servers, topic)
    assert [record.value for record in found] == [b"%d" % n for n in range(100)]
    assert found[0].headers == (("h", b"v"),)
    assert found[0].timestamp == 1_700_000_000_000


def test_a_record_too_large_is_its_own_fault(settings: Settings) -> None:
    """Catches a lane that waits for a broker which will never take the record: refused here, or by the broker."""
    topic = f"{settings.topic_prefix}large"
    make_topic(settings.kafka.servers, topic)
    producer = KafkaProducer(settings)
    for size in (2_000_000, 5_000_000):
        value = os.urandom(size)  # does not compress
        with pytest.raises(RecordTooLarge):
            producer.send(topic, b"k", value).result(20)
    producer.send(topic, b"k", b"and the next one is fine").result(20)
    producer.close()


def test_a_broker_that_is_away_is_a_transient_failure() -> None:
    """Catches records given up, or a worker that dies, because the broker restarts."""
    settings = Settings.load({}, kafka=f"127.0.0.1:{free_port()}")
    producer = KafkaProducer(settings, **{"delivery.timeout.ms": 500, "log_level": 0})
    future = producer.send("t", b"k", b"v")
    with pytest.raises(DeliveryFailed):
        future.result(10)
    waiting = producer.send("t", b"k", b"v")
    producer.close(timeout_s=0.1)
    with pytest.raises(DeliveryFailed):
        waiting.result(1)


def test_a_fenced_producer_is_fatal() -> None:
    """Catches a worker that goes on after another has taken its place."""
    error = _delivery_error(KafkaError(KafkaError._FENCED, "fenced", True))
    assert isinstance(error, KafkaException)
    assert family(error) is Family.FATAL
    assert family(_delivery_error(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))) is Family.FATAL
    assert family(_delivery_error(KafkaError(KafkaError.NOT_ENOUGH_REPLICAS))) is Family.TRANSIENT
