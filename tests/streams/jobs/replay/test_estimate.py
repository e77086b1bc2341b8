"""What a replay would cost: cache-aware, from a sample, on real Kafka and Valkey."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from cli.replay_view import estimate_row, told_estimate
from freshet.records import Item, ItemKnowledge, Provenance
from processors.items.prompt_text import content_fingerprint
from schemas.codec import Codec
from store.knowledge_cache import KnowledgeCache
from streams.jobs.replay.estimate import Estimate, estimate
from streams.kafka.ranges import RangeReader
from streams.kafka.topics import Topics
from streams.settings import Settings
from tests.support.lane_tools import make_topics, send_all

CODEC = Codec()
NOW = 1_700_000_000_000


@pytest.fixture
def settings(kafka: str, valkey: str, topic_prefix: str) -> Settings:
    made = Settings.load({}, kafka=kafka, redis=valkey, topic_prefix=topic_prefix, partitions=2, llm_concurrency=4)
    make_topics(made)
    return made


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


def items(count: int) -> list[Item]:
    return [Item(f"i{n}", NOW, f"Thing {n}") for n in range(count)]


def knowledge(item: Item, version: str, tokens: int = 0) -> ItemKnowledge:
    cost = Provenance(calls=2, tokens_in=tokens, tokens_out=50, latency_seconds=3.0) if tokens else Provenance()
    content = content_fingerprint(item)
    return ItemKnowledge(
        item.item_id, NOW, NOW, f"{version}-{content}", provenance=cost, content_fingerprint=content, version=version
    )


def ask(settings: Settings, client: redis.Redis) -> Estimate:
    with RangeReader(settings) as reader:
        ranges = reader.find(Topics(settings).items)
    return estimate(settings, client, CODEC, "v2", ["v1", "v2"], ranges)


def test_what_is_known_costs_nothing(settings: Settings, client: redis.Redis) -> None:
    """Catches an estimate that counts cached items, deletions and repeats, or one that forgets what is not known."""
    sent = items(40)
    rows: list[tuple[Any, Any]] = [(one.item_id.encode(), CODEC.encode(one)) for one in sent]
    rows += [(b"i0", None), (b"x", b"bad"), (b"i39", CODEC.encode(sent[39]))]
    send_all(settings, Topics(settings).items, rows)
    cache = KnowledgeCache(client)
    cache.put([knowledge(one, "v1") for one in sent[:20]])
    cache.put([knowledge(one, "v2") for one in sent[20:25]])
    unknown = ask(settings, client)
    assert (unknown.records, unknown.sampled) == (43, 43)
    assert (unknown.fewest, unknown.most) == (15, 35)
    assert unknown.token_range is None
    assert "not known" in told_estimate(unknown)
    answers: list[tuple[Any, Any]] = [
        (sent[n].item_id.encode(), CODEC.encode(knowledge(sent[n], "v1", 350 + 200 * n))) for n in range(2)
    ]
    send_all(settings, Topics(settings).item_knowledge, [*answers, (b"i9", CODEC.encode(knowledge(sent[9], "v1")))])
    known = ask(settings, client)
    assert (known.answers, known.tokens, known.seconds) == (2, 500.0, 3.0)
    assert known.token_range == (7_500, 17_500)
    assert known.second_range == (15 * 3.0 / 4, 35 * 3.0 / 4)
    assert "7,500 to 17,500 tokens" in told_estimate(known)
    assert estimate_row(known)["token_range"] == (7_500, 17_500)


def test_a_large_range_is_sampled_evenly(settings: Settings, client: redis.Redis) -> None:
    """Catches an estimate by the oldest records alone, and a dry run that reads the whole topic."""
    sent = items(4_000)
    send_all(settings, Topics(settings).items, [(one.item_id.encode(), CODEC.encode(one)) for one in sent])
    KnowledgeCache(client).put([knowledge(one, "v2") for one in sent[:2_000]])
    found = ask(settings, client)
    assert found.records == 4_000
    assert found.sampled == 1_000
    assert 1_500 < found.most < 2_500


def test_an_empty_range_costs_nothing(settings: Settings, client: redis.Redis) -> None:
    """Catches a division by the number of sampled records."""
    found = ask(settings, client)
    assert (found.records, found.fewest, found.most, found.token_range) == (0, 0, 0, None)
