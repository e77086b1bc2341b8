from __future__ import annotations

import numpy as np
import pytest
import redis

from freshet.layout import Keys
from freshet.reader import FeatureReader
from freshet.records import Claim, DeadLetter, InferredBehavior, ItemFeatures, ItemKnowledge, UserFeatures
from schemas.codec import Codec
from store.feature_writer import FeatureWriter, WriteResult
from store.knowledge_cache import KnowledgeCache
from store.versions import Versions
from streams.kafka.producer import KafkaProducer
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.support.lane_tools import committed, make_topics, read_all, until
from tests.support.lanes import sink

CODEC = Codec()
NOW = 1_700_000_000_000
DIMS = 8


def vector(fill: float) -> bytes:
    return np.full(DIMS, fill, dtype="<f2").tobytes()


def item(item_id="i", time=NOW, fill=1.0, tier=1, version="v1", data=None, offset=0) -> ItemFeatures:
    return ItemFeatures(item_id, version, tier, time, time + 5, DIMS, data or vector(fill), 0, offset)


def user(user_id="u", time=NOW, fill=1.0, version="v1") -> UserFeatures:
    behaviors = (InferredBehavior("i", 0.5),)
    return UserFeatures(user_id, version, 2, time, time + 5, DIMS, vector(fill), vector(-fill), behaviors, "r", 3)


def knowledge(item_id="i", time=NOW, summary="a thing", **more) -> ItemKnowledge:
    return ItemKnowledge(item_id, time, time + 5, "f" * 64, summary, (Claim("attribute", "size", "big"),), **more)


class Flow:
    def __init__(self, kafka: str, url: str, prefix: str, **settings):
        given = {"kafka": kafka, "redis": url, "topic_prefix": prefix, "partitions": 1, "dims": DIMS} | settings
        self.settings = Settings.load({}, **given)
        self.topics = make_topics(self.settings)
        self.client = redis.Redis.from_url(url)
        Versions(self.client).activate("v1")
        self.reader = FeatureReader(self.client, timeout_s=10.0)
        self.resources = Resources(self.settings, clock=lambda: NOW + 2_000)
        self.lane = sink(self.resources)
        self.sent: dict[str, int] = {}

    def send(self, topic: str, key: str, record, timestamp: int = NOW) -> None:
        producer = KafkaProducer(self.settings)
        value = record if isinstance(record, bytes | None) else CODEC.encode(record)
        producer.send(topic, key.encode(), value, timestamp=timestamp).result(20)
        producer.close()
        self.sent[topic] = self.sent.get(topic, 0) + 1

    def done(self) -> bool:
        group = f"{self.settings.topic_prefix}freshet-v1-sink"
        return all(committed(self.settings.kafka.servers, group, topic) == count for topic, count in self.sent.items())

    def dead_letters(self, topic: str) -> list[DeadLetter]:
        return [
            CODEC.decode(DeadLetter, record.value)
            for record in read_all(self.settings.kafka.servers, self.topics.dead_letters(topic))
        ]


@pytest.fixture
async def flow(kafka, valkey, topic_prefix):
    flow = Flow(kafka, valkey, topic_prefix)
    yield flow
    await flow.lane.stop()
    await flow.resources.close()
    flow.client.close()


async def test_features_and_knowledge_reach_the_ranker(flow):
    flow.send(flow.topics.item_features, "i", item(fill=2.0))
    flow.send(flow.topics.user_features, "u", user(fill=3.0))
    flow.send(flow.topics.item_knowledge, "i", knowledge())
    await flow.lane.start()
    await until(flow.done, "the commit")
    read = flow.reader.read("u", ["i", "j"])
    assert read.present.tolist() == [True, False]
    assert read.item_matrix[0].tolist() == [2.0] * DIMS
    assert read.user.present
    assert read.user.log_vector.tolist() == [3.0] * DIMS
    assert [behavior.item_id for behavior in read.user.behaviors] == ["i"]
    assert flow.reader.knowledge("i").document["summary"] == "a thing"
    freshness = flow.resources.metrics.freshness.labels(lane="sink")
    assert freshness._sum.get() == pytest.approx(6.0)  # three records of two seconds each


async def test_a_late_older_record_changes_nothing_even_within_one_batch(flow):
    for time, fill in ((NOW, 1.0), (NOW + 10, 2.0), (NOW + 5, 3.0)):
        flow.send(flow.topics.item_features, "i", item(time=time, fill=fill))
    await flow.lane.start()
    await until(flow.done, "the commit")
    flow.send(flow.topics.item_features, "i", item(time=NOW + 9, fill=4.0))
    await until(flow.done, "the commit of the late one")
    assert flow.reader.read("u", ["i"]).item_matrix[0].tolist() == [2.0] * DIMS
    assert flow.resources.metrics.sink_writes.labels(kind="item", result="older")._value.get() == 2


async def test_a_null_value_deletes_by_its_time_and_newer_features_revive(flow):
    # Catches a deletion replayed late that takes what came after it.
    flow.send(flow.topics.item_features, "gone", item("gone"))
    flow.send(flow.topics.item_features, "gone", None, NOW + 10)
    flow.send(flow.topics.item_features, "gone", item("gone", time=NOW + 3, fill=9.0))
    flow.send(flow.topics.item_features, "back", item("back", time=NOW + 20))
    flow.send(flow.topics.item_features, "back", None, NOW + 10)
    flow.send(flow.topics.user_features, "u", user())
    flow.send(flow.topics.user_features, "u", None, NOW + 10)
    flow.send(flow.topics.item_knowledge, "gone", knowledge("gone"))
    flow.send(flow.topics.item_knowledge, "gone", None, NOW + 10)
    await flow.lane.start()
    await until(flow.done, "the commit")
    read = flow.reader.read("u", ["gone", "back"])
    assert read.present.tolist() == [False, True]
    assert not read.user.present
    assert flow.reader.knowledge("gone") is None


async def test_a_null_value_deletes_from_every_version(flow):
    # Catches an erased user, or a deleted item, that comes back with a rollback or with the next activation.
    other = FeatureWriter(flow.client)
    other.put_items([item("gone", version="v2"), item("kept", version="v2")])
    other.put_users([user(version="v0")])
    other.put_knowledge("v2", [knowledge("gone")])
    for version in ("v0", "v2"):
        Versions(flow.client).create(version)
    flow.send(flow.topics.item_features, "gone", None, NOW + 10)
    flow.send(flow.topics.user_features, "u", None, NOW + 10)
    await flow.lane.start()
    await until(flow.done, "the commit")
    with FeatureReader(flow.client, version="v2", timeout_s=10.0) as reader:
        assert reader.items(["gone", "kept"]).present.tolist() == [False, True]
        assert reader.knowledge("gone") is None
    with FeatureReader(flow.client, version="v0", timeout_s=10.0) as reader:
        assert not reader.users(["u"])[0].present
    late = [*other.put_users([user(version="v0")]), *other.put_items([item("gone", version="v2")])]
    assert late == [WriteResult.OLDER] * 2


async def test_what_cannot_be_stored_is_a_dead_letter_and_its_batch_is_kept(flow):
    # Catches a version mixed into another, one bad vector failing its batch, and a key that hides another id.
    topic = flow.topics.item_features
    flow.send(topic, "a", item("a"))
    flow.send(topic, "b", b"garbage")
    flow.send(topic, "c", item("c", version="v2"))
    flow.send(topic, "d", item("not d"))
    flow.send(topic, "e", item("e", data=b"\0\0\0"))
    flow.send(topic, "f", item("f"))
    await flow.lane.start()
    await until(flow.done, "the commit")
    assert flow.reader.read("u", list("abcdef")).present.tolist() == [True, False, False, False, False, True]
    assert [(dead_letter.key, dead_letter.reason, dead_letter.stage) for dead_letter in flow.dead_letters(topic)] == [
        (b"b", "bad_framing", "sink/decode"),
        (b"c", "bad_payload", "sink/decode"),
        (b"d", "key_mismatch", "sink/decode"),
        (b"e", "bad_payload", "sink/write"),
    ]


async def test_vectors_are_stored_and_live_as_the_settings_say(kafka, valkey, topic_prefix):
    # Catches a setting of the page that no worker reads.
    flow = Flow(kafka, valkey, topic_prefix, vectors_dtype="int8", item_ttl_s=200, knowledge_ttl_s=300)
    flow.send(flow.topics.item_features, "i", item(fill=2.0))
    flow.send(flow.topics.item_knowledge, "i", knowledge())
    await flow.lane.start()
    await until(flow.done, "the commit")
    keys = Keys()
    assert flow.client.get(keys.shape("v1")) == b"8 int8"
    assert 100 < flow.client.ttl(keys.item("v1", "i")) <= 200 < flow.client.ttl(keys.knowledge("v1", "i")) <= 300
    assert flow.reader.items(["i"]).item_matrix[0] == pytest.approx([2.0] * DIMS)
    await flow.lane.stop()
    await flow.resources.close()
    flow.client.close()


async def test_knowledge_fills_the_cache_and_goes_to_its_own_version(flow):
    # Catches an emptied Redis that pays for the catalogue again, and a shadow version's knowledge lost or mixed in.
    flow.send(flow.topics.item_knowledge, "i", knowledge(version="v1", content_fingerprint="c1"))
    flow.send(flow.topics.item_knowledge, "j", knowledge("j", summary="new", version="v2", content_fingerprint="c2"))
    flow.send(flow.topics.item_knowledge, "k", knowledge("k", summary="of before there were versions"))
    await flow.lane.start()
    await until(flow.done, "the commit")
    cache = KnowledgeCache(flow.client)
    for version, content, item_id in (("v1", "c1", "i"), ("v2", "c2", "j")):
        # Their made-up fingerprints are alike: the row is the last one's, the pointers are each version's own.
        assert cache.find(version, content, "other") is not None, item_id
    assert cache.find("v1", "c2", "other") is None
    assert flow.reader.knowledge("i").document["summary"] == "a thing"
    assert flow.reader.knowledge("j") is None
    assert flow.client.exists("f:v2:k:j")
    assert flow.reader.knowledge("k").document["summary"] == "of before there were versions"
    assert flow.dead_letters(flow.topics.item_knowledge) == []
