"""Cached knowledge on a real server: which row answers, for which version, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from freshet.records import Claim, ItemKnowledge, Provenance
from store.knowledge_cache import KnowledgeCache


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


def knowledge(fingerprint: str = "f1", content: str = "c1", version: str = "v1", **more: object) -> ItemKnowledge:
    base = ItemKnowledge(
        item_id="i1",
        event_time=5,
        computed_time=7,
        fingerprint=fingerprint,
        summary="Grüner Tee 绿茶",
        claims=(Claim("attribute", "size", "1 kg", "1 KG", False, "1000 g"), Claim("purpose", "purpose", "to drink")),
        provenance=Provenance(("a", "b"), {"a": "x"}, "m", "r", 10, 5, 2, 0.5, "fresh", "cpu", ("e1",), ""),
        source_partition=1,
        source_offset=2,
        category=("drinks", "tea"),
        absent=("colour",),
        flags=("far",),
        content_fingerprint=content,
        version=version,
    )
    return replace(base, **more)  # type: ignore[arg-type]


def test_a_record_comes_back_whole(client: redis.Redis) -> None:
    """Catches a field that the row loses: it would be lost from Kafka with the next price."""
    cache = KnowledgeCache(client)
    cache.put([knowledge()])
    found = cache.find("v1", "c1", "f1")
    assert found is not None
    assert found.knowledge == knowledge()


def test_a_new_recipe_keeps_the_answers_of_its_version(client: redis.Redis) -> None:
    """Catches a whole catalogue distilled again because a prompt was edited inside a version."""
    cache = KnowledgeCache(client)
    cache.put([knowledge("old", "c1", "v1")])
    found = cache.find("v1", "c1", "new")
    assert found is not None
    assert (found.knowledge.fingerprint, found.how) == ("old", "content")


def test_a_new_version_distills_under_a_new_recipe_and_reuses_under_the_same(client: redis.Redis) -> None:
    """Catches a new version that serves the old prompts' answers, or pays again for the same ones."""
    cache = KnowledgeCache(client)
    cache.put([knowledge("f1", "c1", "v1")], {"i1": "s1"})
    assert cache.find("v2", "c1", "f2", "s1") is None
    found = cache.find("v2", "c1", "f1")
    assert found is not None
    assert found.how == "fingerprint"


def test_near_duplicates_find_the_shared_row_and_their_own_first(client: redis.Redis) -> None:
    """Catches a variant that gets its neighbor's knowledge though it has its own."""
    cache = KnowledgeCache(client)
    cache.put([knowledge("f1", "c1")], {"i1": "s1"})
    found = cache.find("v1", "c2", "f2", "s1")
    assert found is not None
    assert (found.knowledge.fingerprint, found.how) == ("f1", "sharing")
    cache.put([knowledge("f2", "c2", item_id="i2")])
    found = cache.find("v1", "c2", "f2", "s1")
    assert found is not None
    assert (found.knowledge.fingerprint, found.how) == ("f2", "content")


def test_only_knowledge_of_its_own_is_shared_on(client: redis.Redis) -> None:
    """Catches a chain of shares, each of which knows less; and a cache hit that replaces a fresh answer."""
    cache = KnowledgeCache(client)
    shared = knowledge("f2", "c2", item_id="i2", provenance=Provenance(origin="shared", shared_from="i1"))
    cache.put([shared], {"i2": "s1"})
    assert cache.find("v1", "other", "other", "s1") is None
    cache.put([knowledge("f1", "c1")], {"i1": "s1"})
    cache.put([knowledge("f3", "c3", provenance=Provenance(origin="cache"))], {"i1": "s1"})
    found = cache.find("v1", "other", "other", "s1")
    assert found is not None
    assert found.knowledge.fingerprint == "f1"


def test_rows_expire_and_use_keeps_them(client: redis.Redis) -> None:
    """Catches a cache that grows for ever."""
    KnowledgeCache(client, ttl_s=100).put([knowledge()], {"i1": "s1"})
    names = client.keys("*")
    assert len(names) == 3
    assert all(90_000 < client.pttl(name) <= 100_000 for name in names)
    KnowledgeCache(client, ttl_s=200).put([knowledge()])
    assert client.pttl("f:kc:f1") > 190_000


def test_what_cannot_be_read_or_named_is_a_miss(client: redis.Redis) -> None:
    """Catches a lane stopped by another release's row; and a pointer whose row has gone."""
    cache = KnowledgeCache(client)
    cache.put([knowledge(content=""), knowledge(fingerprint="")])
    assert client.keys("*") == []
    cache.put([knowledge()])
    client.set("f:kc:f1", b"\x09 another format")
    assert cache.find("v1", "c1", "f1") is None
    blob = client.get("f:kc:f1")
    assert blob
    cache.put([knowledge()])
    whole = client.get("f:kc:f1")
    assert isinstance(whole, bytes)
    client.set("f:kc:f1", whole.replace(b'"summary"', b'"surname"'))
    assert cache.find("v1", "c1", "f1") is None
    client.delete("f:kc:f1")
    assert cache.find("v1", "c1", "f2") is None
