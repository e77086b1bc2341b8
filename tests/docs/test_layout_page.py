"""The rights that the page of the Redis layout grants are enough, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from docs.generators.layout_page import RANKER, WORKER
from freshet import FeatureReader
from freshet.connect import connect, is_cluster
from freshet.records import ItemKnowledge
from store.feature_writer import Deletion, FeatureWriter
from store.histories import HistoryBatch, HistoryEvent, HistoryStore
from store.knowledge_cache import KnowledgeCache
from store.refresh_queue import RefreshQueue
from store.token_budget import TokenBudget
from store.version_gc import collect
from store.versions import Versions
from tests.support.fakes import NOW_MS
from tests.support.samples import item, user


@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.valkey) for kind in ("server", "cluster")])
def url(request: pytest.FixtureRequest) -> str:
    clustered = request.param == "cluster"
    return str(request.getfixturevalue("valkey_cluster").url if clustered else request.getfixturevalue("valkey"))


@contextmanager
def logged_in(url: str, rule: str) -> Iterator[str]:
    """The URL with which somebody of these rights connects, on every node."""
    name, *rights = rule.replace("PASSWORD", "secret").split()
    with connect(url) as admin:
        servers: list[Any] = [admin]
        if is_cluster(admin):
            servers = [admin.get_redis_connection(node) for node in admin.get_primaries()]  # type: ignore[union-attr]
        for server in servers:
            server.execute_command("ACL", "SETUSER", name, *rights)
        yield url.replace("//", f"//{name}:secret@")
        for server in servers:
            server.execute_command("ACL", "DELUSER", name)


def test_the_rights_of_a_worker_are_enough(url: str) -> None:
    """Catches a worker that is refused at its first batch, or at the first deletion of a version months later."""
    with logged_in(url, WORKER) as own, connect(own) as client:
        versions, writer = Versions(client), FeatureWriter(client)
        for version in ("v1", "v2"):
            versions.pin(version, {"dims": "8"})
            writer.put_items([item(version=version)])
            writer.put_users([user(version=version)])
            writer.put_knowledge(version, [ItemKnowledge("i1", NOW_MS, NOW_MS, "f00")])
        writer.delete_items(versions.names(), [Deletion("i1", NOW_MS + 1)])
        writer.delete_users(versions.names(), [Deletion("u1", NOW_MS + 1)])
        versions.activate("v1")
        HistoryStore(client).append(HistoryBatch.of([HistoryEvent("u1", "i1", "click", NOW_MS)]))
        assert HistoryStore(client).load(["u1"])[0].item_ids == ("i1",)
        due = RefreshQueue(client, "v1")
        due.complete(due.lease(10, 60.0))
        KnowledgeCache(client).put([ItemKnowledge("i1", NOW_MS, NOW_MS, "f00", content_fingerprint="c00")])
        assert TokenBudget(client, limit=10).reserve(5).admitted
        assert collect(client, "f", "v2", force=True, settle_s=0.0) > 0
        for forbidden in (["FLUSHALL"], ["CONFIG", "GET", "*"], ["SET", "other:key", "1"]):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*forbidden)


def test_the_rights_of_a_ranker_are_enough(url: str) -> None:
    """Catches a ranker that is refused because its client asks a Cluster for more than the page says."""
    with connect(url) as admin:
        Versions(admin).activate("v1")
        FeatureWriter(admin).put_items([item(f"i{n}") for n in range(100)])
    with logged_in(url, RANKER) as own, FeatureReader(own, timeout_s=10.0, raise_errors=True) as reader:
        assert reader.read("u1", [f"i{n}" for n in range(100)]).present.all()
        assert len(reader.changed_items().written) == 100
