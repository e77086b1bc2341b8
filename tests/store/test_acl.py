"""The ACL lines of `docs/use/operators/security.md`: each role can do its work, and nothing that would hurt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from redis.exceptions import NoPermissionError

from freshet import FeatureReader
from freshet.connect import connect
from freshet.records import ItemFeatures, ItemKnowledge, UserFeatures
from store.erasure_watermarks import Erasures
from store.feature_writer import Deletion, FeatureWriter
from store.histories import HistoryBatch, HistoryEvent, HistoryStore, QueuedVersions
from store.knowledge_cache import KnowledgeCache
from store.refresh_queue import RefreshQueue
from store.refreshed_versions import RefreshedVersions
from store.version_gc import collect
from store.versions import Versions
from tests.support import servers
from tests.support.topologies import Cluster, Node

NOW = 1_700_000_000_000
PAGE = Path(__file__).parents[2] / "docs" / "use" / "operators" / "security.md"


def lines() -> list[str]:
    block = re.search(r"```\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert block is not None
    return block[1].splitlines()


@pytest.fixture
def acl(tmp_path: Path) -> Iterator[Node]:
    file = tmp_path / "users.acl"
    file.write_text("\n".join([*lines(), "user admin on >admin ~* &* +@all"]).replace("user default off", "") + "\n")
    with servers.required(Node(options=["--aclfile", str(file)])) as server:
        yield server


@pytest.fixture
def acl_cluster() -> Iterator[Cluster]:
    with servers.required(Cluster()) as cluster:
        for node in cluster.nodes:
            with node.client() as client:
                for line in lines():
                    if "default" not in line:
                        client.execute_command("ACL", "SETUSER", *line.split()[1:])
        yield cluster


def url(server: Node | Cluster, role: str) -> str:
    return server.url.replace("://", f"://{role}:{role.upper()}-PASSWORD@")


def write(server: Node | Cluster, role: str) -> None:
    with connect(url(server, role)) as client:
        versions = Versions(client)
        versions.create("v1", {"dims": "8"})
        versions.activate_if_none("v1")
        versions.beat("v1", "w", {"lanes": []})
        writer = FeatureWriter(client)
        vector = np.ones(8, dtype="<f2").tobytes()
        writer.put_items([ItemFeatures("i", "v1", 1, NOW, NOW, 8, vector)])
        writer.put_users([UserFeatures("u", "v1", 1, NOW, NOW, 8, vector, vector)])
        knowledge = ItemKnowledge("i", NOW, NOW, "f" * 64, content_fingerprint="c", version="v1")
        writer.put_knowledge("v1", [knowledge])
        writer.delete_items("v1", [Deletion("gone", NOW)])
        cache = KnowledgeCache(client)
        cache.put([knowledge])
        assert cache.find("v1", "c", "f" * 64) is not None
        RefreshedVersions(client, "f", "v1").announce("v1")
        store = HistoryStore(client)
        store.append(HistoryBatch.of([HistoryEvent("u", "i", "view", NOW, "e")]), QueuedVersions(["v1"]))
        queue = RefreshQueue(client, "v1")
        assert queue.complete(queue.lease(5, 60)) == 1
        store.erase({"u": NOW + 1}, QueuedVersions(["v1"]))
        assert Erasures(client).timestamps(["u"]) == [NOW + 1]
        assert list(store.scan_users()) == []
        with FeatureReader(client, raise_errors=True) as reader:
            assert reader.changed_items().written == ["i"]


@pytest.mark.parametrize("role", ["worker", "operator"])
def test_worker_and_operator_can_do_their_work_and_not_empty_the_server(acl: Node, role: str) -> None:
    """Catches a line that lacks a command a lane sends, or grants one that loses everything."""
    write(acl, role)
    with redis.Redis.from_url(url(acl, role)) as client:
        for command in (
            ["FLUSHALL"],
            ["FLUSHDB"],
            ["KEYS", "*"],
            ["CONFIG", "GET", "*"],
            ["SHUTDOWN"],
            ["ACL", "LIST"],
        ):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command)
        with pytest.raises(NoPermissionError):
            client.set("somebody:else", "x")
        if role == "operator":
            Versions(client).create("v0")
            collect(client, "f", "v0", force=True, settle_s=0)


def test_a_ranker_reads_and_does_nothing_else(acl: Node) -> None:
    """Catches a ranker that cannot read, or that could write, list or see what is not ours."""
    write(acl, "worker")
    with FeatureReader(url(acl, "ranker"), timeout_s=5.0, raise_errors=True) as reader:
        found = reader.read("u", ["i", "gone"])
        assert found.present.tolist() == [True, False]
        assert reader.knowledge("i") is not None
        assert reader.changed_items().written == ["i"]
    with redis.Redis.from_url(url(acl, "ranker")) as client:
        for command in (["SET", "f:x", "1"], ["DEL", "f:active"], ["SCAN", "0"], ["KEYS", "*"], ["FLUSHALL"]):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command)
        with pytest.raises(NoPermissionError):
            client.get("somebody:else")


def test_the_roles_do_for_a_cluster_too(acl_cluster: Cluster) -> None:
    """Catches lines that lack what a client of a Cluster asks before it reads a key."""
    write(acl_cluster, "worker")
    with FeatureReader(url(acl_cluster, "ranker"), timeout_s=5.0, raise_errors=True) as reader:
        assert reader.read("u", ["i", "gone"]).present.tolist() == [True, False]
        assert reader.changed_items().written == ["i"]
