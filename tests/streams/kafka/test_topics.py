"""Topic names and settings, and that the broker takes them."""

from __future__ import annotations

import gc
from pathlib import Path

from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from streams.kafka.topics import Topics, existing
from streams.settings import Settings


def test_names_follow_prefix_and_version() -> None:
    """Catches two deployments, or two versions, that write into one topic."""
    topics = Topics(Settings.load({}, topic_prefix="shop.", version="v7"))
    assert topics.items == "shop.items"
    assert topics.item_features == "shop.item-features-v7"
    assert Topics(Settings.load({}), "v8").user_features == "user-features-v8"
    assert Topics.dead_letters(topics.items) == "shop.items.dlq"
    names = [topic.name for topic in topics.all()]
    assert len(set(names)) == len(names) == 11


def test_the_broker_makes_them_as_described(kafka: str, topic_prefix: str) -> None:
    """Catches a setting the broker ignores or refuses: knowledge that expires, dead letters too large to keep."""
    settings = Settings.load({}, kafka=kafka, topic_prefix=topic_prefix, partitions=3)
    topics, address = Topics(settings), {"bootstrap.servers": kafka}
    assert len(topics.create(address)) == 11
    assert topics.create(address) == []
    assert existing(address, [topics.items, f"{topic_prefix}nothing"]) == {topics.items: 3}
    asked = [ConfigResource(ResourceType.TOPIC, topic.name) for topic in topics.all()]
    with AdminClient(address) as admin:
        for topic, future in zip(topics.all(), admin.describe_configs(asked).values(), strict=True):
            stands = future.result(timeout=10)
            assert {name: stands[name].value for name in topic.config} == dict(topic.config)


def test_topics_that_were_there_leave_no_client_behind(kafka: str, topic_prefix: str) -> None:
    """Catches an admin client that a cycle keeps alive: it looks for a broker that is gone, and fills the screen."""
    topics = Topics(Settings.load({}, kafka=kafka, topic_prefix=topic_prefix, partitions=1))
    topics.create({"bootstrap.servers": kafka})
    gc.collect()
    gc.disable()
    try:
        before = threads()
        assert topics.create({"bootstrap.servers": kafka}) == []
        assert threads() == before
    finally:
        gc.enable()


def threads() -> int:
    """Of this process, librdkafka's included."""
    return len(list(Path("/proc/self/task").iterdir()))
