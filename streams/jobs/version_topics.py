"""What a feature version has of Kafka to itself, its topics and consumer groups, and how both are deleted.

Owns which they are. Must not decide that a version goes. The groups go too: under their offsets a version that is later
made by the same name would never read the items it has to be filled with.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from streams.kafka.producer import kafka_config
from streams.kafka.topics import Topics, existing
from streams.lanes.table import consumer_groups
from streams.settings import Settings

_GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.GROUP_ID_NOT_FOUND}


def own_topics(settings: Settings, version: str) -> list[str]:
    """The topics that no other version has."""
    shared = {topic.name for topic in Topics(settings, _another(version)).all()}
    return [topic.name for topic in Topics(settings, version).all() if topic.name not in shared]


def own_groups(settings: Settings, version: str) -> list[str]:
    """The consumer groups that no other version has."""
    shared = consumer_groups(settings.replace(version=_another(version)))
    return [group for group in consumer_groups(settings.replace(version=version)) if group not in shared]


def existing_topics(settings: Settings, version: str) -> list[str]:
    """Those of the version's own topics that the broker has; raises `KafkaException`."""
    return list(existing(kafka_config(settings), own_topics(settings, version)))


def delete(settings: Settings, version: str, *, timeout_s: float = 30.0) -> list[str]:
    """Delete the version's topics and groups; answers what was there. Raises `KafkaException`, and may be repeated."""
    gone: list[str] = []
    with AdminClient(kafka_config(settings)) as admin:  # by hand: see `Topics.create`
        if topics := existing_topics(settings, version):
            gone += _settled(admin.delete_topics(topics, request_timeout=timeout_s))
        if groups := own_groups(settings, version):
            gone += _settled(admin.delete_consumer_groups(groups, request_timeout=timeout_s))
    return gone


def _settled(futures: Mapping[str, Future[Any]]) -> list[str]:
    gone = []
    for name, future in futures.items():
        try:
            future.result()
            gone.append(name)
        except KafkaException as error:
            if error.args[0].code() not in _GONE:
                raise
    return gone


def _another(version: str) -> str:
    return f"{version}-another"
