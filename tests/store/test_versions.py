"""Pointers, manifests and the register of workers, on a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import redis

from freshet.layout import Keys
from store.versions import ActiveMoved, VersionConflict, VersionError, VersionInUse, VersionRetiring, Versions


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


@pytest.fixture
def versions(client: redis.Redis) -> Versions:
    return Versions(client)


def together(*calls: Callable[[], object]) -> list[object]:
    """What each call answered or raised, all made at once."""
    start, outcomes = threading.Barrier(len(calls)), list[object]([None] * len(calls))

    def run(place: int) -> None:
        start.wait()
        try:
            outcomes[place] = calls[place]()
        except VersionError as error:
            outcomes[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("decode", [False, True])
def test_activation_answers_what_to_roll_back_to(valkey: str, decode: bool) -> None:
    """Catches an operator who activates and no longer knows what was active."""
    with redis.Redis.from_url(valkey, decode_responses=decode) as client:
        versions = Versions(client)
        assert (versions.active(), versions.previous()) == (None, None)
        assert versions.activate("v1") is None
        assert versions.previous() is None
        assert versions.activate("v2") == "v1"
        assert (versions.active(), versions.previous()) == ("v2", "v1")
        assert versions.names() == ["v1", "v2"]


def test_only_the_first_of_two_workers_activates(versions: Versions) -> None:
    """Catches a starting worker that swaps the version under a live ranker."""
    assert versions.activate_if_none("v1")
    assert not versions.activate_if_none("v2")
    assert not versions.activate_if_none("v1")
    assert versions.active() == "v1"


def test_prefixes_are_apart_and_wrong_names_are_refused(client: redis.Redis) -> None:
    """Catches one team's activation that moves another's rankers."""
    Versions(client, "a").activate("v1")
    assert Versions(client, "b").active() is None
    assert Versions(client, "b").names() == []
    for name in ("", "a:b", "due", "v*"):
        with pytest.raises(ValueError, match="version"):
            Versions(client).activate(name)
        with pytest.raises(ValueError, match="version"):
            Versions(client).pin(name, {})


def test_rollback_goes_back_and_forward(versions: Versions) -> None:
    """Catches a rollback that forgets where it came from, or that answers before it can."""
    with pytest.raises(VersionError, match="no previous"):
        versions.rollback()
    versions.activate("v1")
    with pytest.raises(VersionError, match="no previous"):
        versions.rollback()
    versions.activate("v2")
    assert versions.rollback() == ("v2", "v1")
    assert (versions.active(), versions.previous()) == ("v1", "v2")
    assert versions.rollback() == ("v1", "v2")


def test_activating_the_active_version_keeps_the_way_back(versions: Versions) -> None:
    """Catches a repeated `activate` after which `rollback` goes nowhere."""
    versions.activate("v1")
    versions.activate("v2")
    assert versions.activate("v2") == "v2"
    assert versions.previous() == "v1"


def test_activation_only_instead_of_the_version_that_was_compared_to(versions: Versions) -> None:
    """Catches coverage that was checked against one version, and a swap that puts away another."""
    versions.activate("v1")
    versions.activate("v3")
    with pytest.raises(ActiveMoved, match="v3 is active"):
        versions.activate("v2", instead_of="v1")
    assert versions.activate("v2", instead_of="v3") == "v3"


def test_pointers_stay_two_different_versions_while_activations_race_with_rollbacks(client: redis.Redis) -> None:
    """Catches a swap in two steps: after any race both pointers are set, and differ."""
    versions = Versions(client)
    versions.activate("v1")
    versions.activate("v2")
    for n in range(60):
        other = Versions(client)
        together(
            partial(versions.activate, f"v{1 + n % 3}"),
            other.rollback,
            other.rollback,
            partial(other.activate, f"v{1 + (n + 1) % 3}"),
        )
        pointers = {versions.active(), versions.previous()}
        assert len(pointers) == 2
        assert pointers <= {"v1", "v2", "v3"}


def test_a_pin_completes_and_never_changes(versions: Versions) -> None:
    """Catches a worker that overwrites what the version is made of, or that cannot add what was not known before."""
    assert versions.create("v2", {"dims": "128"}, by="operator")
    assert not versions.pin("v2", {"dims": "128", "encoder": "mini@1"}, by="w1")
    manifest = versions.manifest("v2")
    assert {name: (one.value, one.by) for name, one in manifest.items()} == {
        "dims": ("128", "operator"),
        "encoder": ("mini@1", "w1"),
    }
    assert abs(manifest["encoder"].at_ms - 1_000 * time.time()) < 60_000


def test_a_conflict_names_everything_that_differs_and_pins_nothing(versions: Versions) -> None:
    """Catches a message from which an operator learns one difference at a time, and half of a worker pinned."""
    versions.pin("v1", {"encoder": "mini@1", "dims": "128"})
    own = {"dims": "64", "aligner": "abc", "encoder": "mini@2"}
    with pytest.raises(VersionConflict) as caught:
        versions.pin("v1", own)
    assert caught.value.differing == {"dims": ("128", "64"), "encoder": ("mini@1", "mini@2")}
    for word in ("v1", "encoder", "mini@1", "mini@2", "'128'", "'64'", "freshet versions create"):
        assert word in str(caught.value)
    assert set(versions.manifest("v1")) == {"encoder", "dims"}


def test_of_two_workers_that_pin_at_once_one_is_refused(client: redis.Redis) -> None:
    """Catches a check before a write: two encoders in one version."""
    for n in range(40):
        version = f"v{n}"
        workers = [Versions(client), Versions(client)]
        outcomes = together(
            partial(workers[0].pin, version, {"dims": "128", "encoder": "a"}),
            partial(workers[1].pin, version, {"aligner": "x", "encoder": "b"}),
        )
        refused = [place for place, one in enumerate(outcomes) if isinstance(one, VersionConflict)]
        assert len(refused) == 1
        winner = {name: one.value for name, one in workers[0].manifest(version).items()}
        assert winner == [{"aligner": "x", "encoder": "b"}, {"dims": "128", "encoder": "a"}][refused[0]]


def test_states(versions: Versions) -> None:
    """Catches a list on which a version that fills looks like one that may go."""
    for name in ("v1", "v2", "v3", "v4"):
        versions.create(name)
        time.sleep(0.003)
    versions.activate("v2")
    versions.activate("v3")
    versions.retire("v1")
    seen = versions.overview()
    assert [seen.state(name) for name in ("v1", "v2", "v3", "v4", "v5")] == [
        "retiring",
        "previous",
        "active",
        "shadow",
        "unknown",
    ]
    assert seen.all == ["v1", "v2", "v3", "v4"]
    assert versions.names() == ["v2", "v3", "v4"]
    versions.activate("v4")
    assert versions.overview().state("v2") == "old"


def test_a_pointer_of_an_older_release_counts(client: redis.Redis, versions: Versions) -> None:
    """Catches an erasure that misses the active version because nobody registered it."""
    client.set(Keys().active(), "v0")
    assert versions.names() == ["v0"]
    assert versions.overview().state("v0") == "active"


def test_what_is_being_deleted_is_neither_activated_nor_pinned_nor_created(versions: Versions) -> None:
    """Catches rankers on a version that disappears under them, and a worker that writes into it."""
    versions.activate("v1")
    versions.create("v2")
    versions.retire("v2")
    for attempt in (
        lambda: versions.activate("v2"),
        lambda: versions.activate_if_none("v2"),
        lambda: versions.pin("v2", {"dims": "8"}),
        lambda: versions.create("v2"),
        lambda: versions.beat("v2", "w"),
    ):
        with pytest.raises(VersionRetiring, match="gc v2"):
            attempt()
    assert versions.active() == "v1"
    versions.forget("v2")
    assert versions.create("v2")


def test_the_active_and_the_previous_are_never_deleted(versions: Versions) -> None:
    """Catches a clean-up that takes what rankers read, or the way back, whatever it is told."""
    versions.activate("v1")
    versions.activate("v2")
    for name in ("v1", "v2"):
        for force in (False, True):
            with pytest.raises(VersionInUse, match=name):
                versions.retire(name, force=force)
        with pytest.raises(VersionError, match="not being deleted"):
            versions.forget(name)


def test_a_deletion_loses_against_an_activation(client: redis.Redis) -> None:
    """Catches a check before a mark: whichever comes first, the active version is never one that is being deleted."""
    versions = Versions(client)
    versions.activate("v0")
    for n in range(40):
        version = f"v{n + 1}"
        versions.create(version)
        one, other = Versions(client), Versions(client)
        swap, end = together(
            partial(one.activate, version),
            partial(other.retire, version, force=True),
        )
        assert isinstance(swap, VersionRetiring) != isinstance(end, VersionInUse)
        assert versions.active() not in versions.overview().retiring


def test_living_workers_hold_a_version(versions: Versions) -> None:
    """Catches a deletion under a worker that goes on writing, and one that a dead worker holds up for ever."""
    versions.activate("v1")
    versions.create("v2")
    versions.beat("v2", "host:1", {"lanes": ["sink"]})
    [worker] = versions.workers("v2")
    assert (worker.name, dict(worker.about)) == ("host:1", {"lanes": ["sink"]})
    with pytest.raises(VersionInUse, match="host:1"):
        versions.retire("v2")
    time.sleep(0.02)
    assert versions.workers("v2", live_s=0.01) == []
    versions.retire("v2", live_s=0.01)
    with pytest.raises(VersionRetiring):
        versions.beat("v2", "host:1")


def test_force_makes_living_workers_stop(versions: Versions) -> None:
    """Catches `--force` that leaves a writer behind."""
    versions.create("v2")
    versions.beat("v2", "host:1")
    versions.retire("v2", force=True)
    assert len(versions.workers("v2")) == 1
    with pytest.raises(VersionRetiring):
        versions.beat("v2", "host:1")
    assert versions.workers("v2") == []


def test_a_worker_that_slept_through_a_deletion_does_not_bring_the_version_back(
    client: redis.Redis, versions: Versions
) -> None:
    """Catches a version that is listed again, and a hash that nobody deletes."""
    versions.activate("v1")
    versions.create("v2")
    versions.beat("v2", "host:1")
    versions.retire("v2", force=True)
    versions.forget("v2")
    with pytest.raises(VersionRetiring, match="was deleted"):
        versions.beat("v2", "host:1")
    assert client.keys("f:v2:*") == []
    assert versions.names() == ["v1"]


def test_a_server_that_lost_its_data_is_told_from_a_deletion(client: redis.Redis, versions: Versions) -> None:
    """Catches workers that end, all at once, since Redis came back empty."""
    versions.activate("v1")
    assert versions.beat("v1", "host:1")
    client.flushall()
    assert not versions.beat("v1", "host:1")
    assert client.keys("*") == []


def test_a_worker_leaves(versions: Versions) -> None:
    """Catches a stopped worker that holds its version for another minute."""
    versions.create("v2")
    versions.beat("v2", "host:1")
    versions.leave("v2", "host:1")
    versions.retire("v2")
