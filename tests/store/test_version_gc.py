"""Deleting a version: what goes, what stays, who is in the way, and what a kill in the middle leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freshet.connect import connect, keys_for
from store.feature_writer import Deletion, FeatureWriter, WriteResult
from store.scan import Pace
from store.version_gc import census, collect, collectable
from store.versions import VersionError, VersionInUse, VersionNames, VersionRetiring, Versions
from tests.store.test_coverage import write_items, write_users
from tests.support.fakes import NOW_MS
from tests.support.samples import item

REPOSITORY = Path(__file__).parents[2]
ITEMS, USERS = [f"i{n}" for n in range(1_500)], [f"u{n}" for n in range(700)]


@pytest.fixture(params=["server", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    name = "valkey" if request.param == "server" else "valkey_cluster"
    found = request.getfixturevalue(name)
    return str(found if request.param == "server" else found.url)


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    client = connect(url)
    yield client
    client.close()


def fill(client: Any, *names: str) -> None:
    keys = keys_for(client)
    for version in names:
        write_items(client, version, ITEMS)
        write_users(client, version, USERS)
        client.set(keys.knowledge(version, "i1"), b"k")
        client.set(keys.content_pointer(version, "c"), "f")
        client.set(keys.shape(version), "8 float16")
        Versions(client).pin(version, {"dims": "8"})


def keys_of(client: Any, pattern: str) -> set[bytes]:
    place = {"target_nodes": "primaries"} if hasattr(client, "get_primaries") else {}
    return set(client.keys(pattern, **place))


def test_everything_of_the_version_goes_and_nothing_else(client: Any) -> None:
    """Catches a pattern that takes a neighbor's keys, or leaves an index behind."""
    fill(client, "v1", "v2", "v20")
    client.set(keys_for(client).history("u1"), b"kept")
    Versions(client).activate("v1")
    kept = keys_of(client, "*") - keys_of(client, "f:v2:*")
    steps: list[int] = []
    gone = len(keys_of(client, "f:v2:*"))
    # Manifest and workers go with the name.
    assert collect(client, "f", "v2", force=True, settle_s=0, progress=steps.append) == gone - 1 == sum(steps)
    assert keys_of(client, "f:v2:*") == set()
    assert keys_of(client, "*") == kept
    assert Versions(client).overview().all == ["v1", "v20"]


def test_a_census_counts_by_kind(client: Any) -> None:
    """Catches a dry run that says something else than what would be done."""
    fill(client, "v1")
    found = census(client, "f", "v1")
    assert (found["items"], found["users"], found["knowledge"]) == (1_500, 700, 1)
    assert found.total() == len(keys_of(client, "f:v1:*"))


def test_the_active_and_the_previous_stay_whatever_is_said(client: Any) -> None:
    """Catches the worst command there could be."""
    fill(client, "v1", "v2")
    Versions(client).activate("v1")
    Versions(client).activate("v2")
    before = keys_of(client, "*")
    for name in ("v1", "v2"):
        with pytest.raises(VersionInUse):
            collect(client, "f", name, force=True, settle_s=0)
    assert keys_of(client, "*") == before


def test_a_version_written_just_now_stays_unless_forced(client: Any) -> None:
    """Catches a replay whose features are deleted under it."""
    fill(client, "v2")
    with pytest.raises(VersionInUse, match="written"):
        collect(client, "f", "v2", settle_s=0)
    assert "v2" not in Versions(client).overview().retiring
    collect(client, "f", "v2", settle_s=0, live_s=0.0)
    assert keys_of(client, "f:v2:*") == set()


def test_a_living_worker_is_in_the_way_and_force_waits_until_it_has_stopped(client: Any) -> None:
    """Catches keys that a worker writes behind the walk, and a version that comes back with them."""
    fill(client, "v2")
    versions = Versions(client)
    versions.beat("v2", "host:1")
    with pytest.raises(VersionInUse, match="host:1"):
        collect(client, "f", "v2", settle_s=0, live_s=0.5)
    stopped: list[float] = []

    def work() -> None:
        """A worker that writes, and looks every moment whether it may."""
        while True:
            write_items(client, "v2", [f"late-{time.monotonic()}"])
            try:
                Versions(client).beat("v2", "host:1")
            except VersionRetiring:
                stopped.append(time.monotonic())
                return
            time.sleep(0.05)

    worker = threading.Thread(target=work)
    worker.start()
    collect(client, "f", "v2", force=True, settle_s=0.3)
    ended = time.monotonic()
    worker.join()
    assert stopped
    assert stopped[0] <= ended
    assert keys_of(client, "f:v2:*") == set()


def test_a_dead_workers_version_goes(client: Any) -> None:
    """Catches a version that nobody can delete since its worker was killed."""
    fill(client, "v2")
    Versions(client).beat("v2", "host:1")
    time.sleep(0.6)
    collect(client, "f", "v2", settle_s=0, live_s=0.5)
    assert keys_of(client, "f:v2:*") == set()


def test_late_writes_are_swept_up_until_the_settling_time_is_over(client: Any) -> None:
    """Catches one walk only: what a batch under way writes behind it would stay for ever."""
    fill(client, "v2")
    late = threading.Timer(0.7, lambda: write_items(client, "v2", ["late"]))
    late.start()
    collect(client, "f", "v2", force=True, settle_s=1.2)
    late.join()
    assert keys_of(client, "f:v2:*") == set()


CHILD = """
import sys
from store.version_gc import collect
from freshet.connect import connect
from store.scan import Pace
print("begun", flush=True)
collect(connect(sys.argv[1]), "f", "v2", force=True, settle_s=0, pace=Pace(2_000))
"""


def test_killed_in_the_middle_it_is_still_listed_and_the_next_attempt_ends_it(url: str, client: Any) -> None:
    """Catches half a version that looks whole, can be activated, or is forgotten with its keys in place."""
    fill(client, "v1", "v2")
    versions = Versions(client)
    versions.activate("v1")
    whole = len(keys_of(client, "f:v2:*"))
    with subprocess.Popen([sys.executable, "-c", CHILD, url], cwd=REPOSITORY, stdout=subprocess.PIPE) as child:
        deadline = time.monotonic() + 60
        while not 0 < len(keys_of(client, "f:v2:*")) < whole:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
    left = len(keys_of(client, "f:v2:*"))
    assert 0 < left < whole
    assert versions.overview().state("v2") == "retiring"
    with pytest.raises(VersionRetiring):
        versions.activate("v2")
    assert collectable(versions.overview()) == ["v2"]
    collect(client, "f", "v2", settle_s=0)
    assert keys_of(client, "f:v2:*") == set()
    assert versions.overview().all == ["v1"]


def test_what_else_belongs_to_it_goes_before_its_name(client: Any) -> None:
    """Catches topics that nothing lists any more: when they cannot be deleted, the version stays half deleted."""
    fill(client, "v2")

    def fails() -> None:
        raise ConnectionError("Kafka is away")

    with pytest.raises(ConnectionError):
        collect(client, "f", "v2", force=True, settle_s=0, before_forgetting=fails)
    assert Versions(client).overview().state("v2") == "retiring"
    done: list[str] = []
    collect(client, "f", "v2", settle_s=0, before_forgetting=lambda: done.append("topics"))
    assert done == ["topics"]
    assert Versions(client).overview().state("v2") == "unknown"


def test_a_race_with_an_activation_is_lost(client: Any) -> None:
    """Catches keys that go although the activation came first, and one that succeeds on what is going."""
    for n in range(5):
        version = f"v{n}"
        write_items(client, version, ITEMS[:50])
        Versions(client).create(version)
        outcome: list[object] = []

        def activate(version: str = version, outcome: list[object] = outcome) -> None:
            try:
                outcome.append(Versions(client).activate(version))
            except VersionError as error:
                outcome.append(error)

        swap = threading.Thread(target=activate)
        swap.start()
        try:
            collect(client, "f", version, force=True, settle_s=0, pace=Pace(1e6))
        except VersionInUse:
            swap.join()
            assert Versions(client).active() == version
            assert len(keys_of(client, f"f:{version}:i:*")) == 50
        else:
            swap.join()
            if isinstance(outcome[0], VersionRetiring):
                assert Versions(client).active() != version


def test_only_what_is_older_than_the_active_one_goes_unnamed() -> None:
    """Catches a clean-up that takes a version in the middle of its fill."""
    names = VersionNames("v3", "v2", {"v1": 1, "v2": 2, "v3": 3, "v4": 4, "v5": 5}, frozenset({"v5"}))
    assert collectable(names) == ["v1", "v5"]
    assert collectable(VersionNames(None, None, {"v1": 1}, frozenset())) == []


def test_a_writer_that_does_not_look_is_refused(client: Any) -> None:
    """Catches a deleted version whose last keys were written behind the deletion, and a name that stays barred."""
    writer = FeatureWriter(client)
    versions = Versions(client)
    versions.activate("v1")
    versions.pin("v2", {"dims": "8"})
    writer.put_items([item(version="v2")])
    refused: list[bool] = []

    def late() -> None:
        with pytest.raises(VersionRetiring):
            writer.put_items([item("i2", version="v2")])
        refused.append(writer.delete_items(["v2"], [Deletion("i2", NOW_MS)]) == [WriteResult.SAME])

    collect(client, "f", "v2", force=True, settle_s=0.0, before_forgetting=late)
    assert refused == [True]
    assert keys_of(client, "f:v2:*") == set()
    assert writer.put_items([item(version="v2")]) == [WriteResult.WRITTEN]
