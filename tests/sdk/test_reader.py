"""What a ranker gets: one round trip, one version, arrays of the right shape whatever is missing."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from freshet import FeatureReader, InferredBehavior
from freshet._changed_items import CLOCK_SKEW_MS
from freshet._protocol import ITEMS_PER_TRIP
from freshet.layout import Keys
from freshet.records import ItemKnowledge
from store.feature_writer import Deletion, FeatureWriter
from store.versions import Versions
from tests.support.fakes import NOW_MS, FakeClock
from tests.support.samples import DIMS, item, user
from tests.support.worlds import KINDS, World


@pytest.fixture
def client(valkey: str) -> Any:
    with redis.Redis.from_url(valkey) as connected:
        yield connected


@pytest.fixture
def writer(client: Any) -> FeatureWriter:
    Versions(client).activate("v1")
    return FeatureWriter(client)


@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.valkey) for kind in KINDS])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One server or a Cluster, read by threads or asyncio; version v1 is active."""
    clustered = "cluster" in request.param
    url = request.getfixturevalue("valkey_cluster").url if clustered else request.getfixturevalue("valkey")
    made = World(url, is_async="asyncio" in request.param)
    made.versions.activate("v1")
    yield made
    made.close()


def test_reads_user_and_items_in_the_order_asked_for(world: World) -> None:
    """Catches rows in Redis's order, a lost duplicate, a wrong age, tier or type."""
    world.writer.put_items([item("a", 1.0), item("b", 2.0, tier=2, event_time=NOW_MS - 9_000)])
    world.writer.put_users([user("u", 0.5, degraded=True)])
    clock = FakeClock()
    clock.advance(60)
    found = world.reader(clock=clock).read("u", ["b", "none", "a", "b"])
    assert found.item_matrix.dtype == np.float32
    assert found.item_matrix.tolist() == [[value] * DIMS for value in (2.0, 0.0, 1.0, 2.0)]
    assert found.present.tolist() == [True, False, True, True]
    assert found.age_seconds.dtype == np.float32
    assert found.age_seconds.tolist() == [69.0, float("inf"), 60.0, 69.0]
    assert found.tier.tolist() == [2, 0, 1, 2]
    assert found.version == found.user.version == "v1"
    assert found.user.log_vector.tolist() == [0.5] * DIMS
    assert found.user.inferred_vector.tolist() == [-0.5] * DIMS
    assert found.user.behaviors == (InferredBehavior("i1", 0.75), InferredBehavior("ü", 0.25))
    assert (found.user.present, found.user.degraded, found.user.tier) == (True, True, 2)
    assert (found.user.age_seconds, found.user.history_length) == (60.0, 12)


def test_the_answer_is_the_callers_to_change(world: World) -> None:
    """Catches read-only views of a network buffer, and a change that the next answer shows."""
    world.writer.put_items([item("a", 1.0)])
    world.writer.put_users([user("u")])
    found = world.reader().read("u", ["a", "none"])
    found.item_matrix[:] = 9
    found.present[:] = False
    found.age_seconds[:] = 0
    found.tier[:] = 0
    found.user.log_vector[:] = 0
    assert world.reader().read("u", ["a"]).item_matrix[0, 0] == 1.0


def test_one_round_trip_once_warm(client: Any, writer: FeatureWriter) -> None:
    """Catches a second command on the hot path."""
    writer.put_items([item("a")])
    reader = FeatureReader(client)
    reader.read("u", ["a"])
    client.config_resetstat()
    for _ in range(5):
        reader.read("u", ["a", "b"])
    calls = {name: stats["calls"] for name, stats in client.info("commandstats").items() if "config" not in name}
    assert calls == {"cmdstat_mget": 5}


def test_nothing_known_keeps_its_shape(client: Any) -> None:
    """Catches a new platform's first request that fails: nothing active, nothing written, nobody known."""
    reader = FeatureReader(client, dims=16, default=0.25)
    for ids in ([], ["a", "b"]):
        found = reader.read("u", ids)
        assert found.item_matrix.shape == (len(ids), 16)
        assert (found.item_matrix == 0.25).all()
        assert not found.present.any()
        assert np.isinf(found.age_seconds).all()
        assert found.user.log_vector.shape == found.user.inferred_vector.shape == (16,)
        assert (found.user.present, found.user.behaviors, found.version) == (False, (), "")
    assert reader.users([]) == []
    assert reader.items([]).item_matrix.shape == (0, 16)
    assert reader.knowledge("a") is None
    assert reader.changed_items().written == []


def test_the_default_fills_absent_rows_only(world: World) -> None:
    """Catches a default over a real zero vector, and a deleted item that shows what it was."""
    world.writer.put_items([item("zero", 0.0), item("dead", 3.0)])
    world.writer.delete_items("v1", [Deletion("dead", NOW_MS + 1)])
    found = world.reader(default=-1.0).items(["zero", "none", "dead"])
    assert found.item_matrix[:, 0].tolist() == [0.0, -1.0, -1.0]
    assert found.tier.tolist() == [1, 0, 0]


def test_an_event_of_the_near_future_is_new_not_negative(world: World) -> None:
    """Catches negative ages where the platform's clock is ahead."""
    world.writer.put_items([item(event_time=NOW_MS + 5_000)])
    world.writer.put_users([user(event_time=NOW_MS + 5_000)])
    found = world.reader(clock=FakeClock()).read("u1", ["i1"])
    assert found.age_seconds[0] == found.user.age_seconds == 0.0


def test_activation_and_rollback_are_seen_at_once(world: World) -> None:
    """Catches a cached version, or width, that outlives the swap."""
    world.writer.put_items([item("a", 1.0), item("a", 2.0, version="v2", dims=16)])
    reader = world.reader()
    for version, value, dims in (("v1", 1.0, DIMS), ("v2", 2.0, 16), ("v1", 1.0, DIMS)):
        world.versions.activate(version)
        found = reader.read("u", ["a"])
        assert (found.version, found.item_matrix.tolist()) == (version, [[value] * dims])


def test_no_answer_mixes_versions_while_they_are_swapped(valkey: str, client: Any, writer: FeatureWriter) -> None:
    """Catches items of one version beside a user, a row or a label of another, in `read` and over several trips."""
    ids = [f"i{n}" for n in range(ITEMS_PER_TRIP + 10)]
    for value, version in ((1.0, "v1"), (2.0, "v2")):
        writer.put_items([item(one, value, version=version) for one in ids])
        writer.put_users([user("u", value, version=version)])
    stopped = threading.Event()

    def swap() -> None:
        with redis.Redis.from_url(valkey) as own:
            while not stopped.is_set():
                for version in ("v2", "v1"):
                    Versions(own).activate(version)
                    stopped.wait(0.002)

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = set()
    try:
        reader = FeatureReader(client)
        for turn in range(300):
            found = reader.read("u", ids[:20])
            values = {*found.item_matrix[:, 0].tolist(), float(found.user.log_vector[0])}
            assert values == {float(found.version[1:])}
            seen.add(found.version)
            if turn % 30 == 0:
                all_items = reader.items(ids)
                assert set(all_items.item_matrix[:, 0].tolist()) == {float(all_items.version[1:])}
    finally:
        stopped.set()
        swapper.join()
    assert seen == {"v1", "v2"}


def test_a_pinned_reader_stays(world: World) -> None:
    """Catches a shadow version judged by the active one's vectors."""
    world.writer.put_items([item("a", 1.0), item("a", 2.0, version="v2")])
    pinned = world.reader(version="v2")
    assert pinned.read("u", ["a"]).item_matrix[0, 0] == 2.0
    assert pinned.items(["a"]).version == "v2"


def test_many_users_and_knowledge(world: World) -> None:
    """Catches users out of order, and knowledge of another version."""
    world.writer.put_users([user("a", 1.0), user("b", 2.0)])
    world.writer.put_knowledge("v1", [ItemKnowledge("i1", NOW_MS, NOW_MS, "f00", "Tea.")])
    world.writer.put_knowledge("v2", [ItemKnowledge("i1", NOW_MS, NOW_MS, "f01", "Coffee.")])
    reader = world.reader(clock=FakeClock(NOW_MS + 2_500))
    users = reader.users(["b", "none", "a"])
    assert [one.log_vector[0] for one in users] == [2.0, 0.0, 1.0]
    assert [one.present for one in users] == [True, False, True]
    knowledge = reader.knowledge("i1")
    assert knowledge is not None
    assert (knowledge.document["summary"], knowledge.age_seconds, knowledge.version) == ("Tea.", 2.5, "v1")


def test_changed_items_tells_what_to_load_and_what_to_drop(world: World) -> None:
    """Catches a catalogue in memory that misses an item, or keeps a deleted one."""
    reader = world.reader(version="v1")
    world.writer.put_items([item("a"), item("b"), item("c", version="v2")])
    first = reader.changed_items()
    assert (first.version, sorted(first.written), first.deleted) == ("v1", ["a", "b"], [])
    world.writer.delete_items("v1", [Deletion("a", NOW_MS + 1)])
    world.writer.put_items([item("b"), item("d")])  # b is the same: not written
    second = reader.changed_items(first.newest_ms)
    assert second.deleted == ["a"]
    assert "d" in second.written
    assert "a" not in second.written
    assert sorted(reader.changed_items().written) == ["b", "d"]
    later = second.newest_ms + 1 + (CLOCK_SKEW_MS if world.keys.clustered else 0)
    assert reader.changed_items(later).written == []


def test_a_damaged_key_is_one_absent_row(world: World) -> None:
    """Catches one bad value that fails every ranking that has it among its candidates."""
    world.writer.put_items([item("a", 1.0), item("c", 3.0)])
    keys = world.keys
    world.client.set(keys.item("v1", "b"), b"garbage")
    world.client.set(keys.user("v1", "u"), b"\x01\x01" + b"\xff" * 60)
    found = world.reader().read("u", ["a", "b", "c"])
    assert found.present.tolist() == [True, False, True]
    assert not found.user.present


def test_one_reader_serves_many_threads(client: Any, writer: FeatureWriter) -> None:
    """Catches shared state between concurrent requests: each must get its own rows."""
    writer.put_items([item(f"i{n}", float(n)) for n in range(100)])
    reader = FeatureReader(client)
    wrong: list[int] = []

    def ask(start: int) -> None:
        for turn in range(60):
            wanted = [(start * 7 + turn + n) % 100 for n in range(10)]
            found = reader.read("u", [f"i{n}" for n in wanted])
            if found.item_matrix[:, 0].tolist() != wanted:
                wrong.append(turn)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_url_reader_times_out_and_survives_a_lost_connection(valkey: str, client: Any, writer: FeatureWriter) -> None:
    """Catches a ranker that waits for seconds on a hung Redis, or fails once for every idle connection that was cut."""
    writer.put_items([item("a", 1.0)])
    with FeatureReader(valkey, timeout_s=5.0) as reader:
        assert reader.read("u", ["a"]).present[0]
        for one in client.client_list(_type="normal"):
            if one["id"] != str(client.client_id()):
                client.client_kill_filter(_id=one["id"])
        assert reader.read("u", ["a"]).present[0]
    with socket.create_server(("127.0.0.1", 0)) as hung:
        url = f"redis://127.0.0.1:{hung.getsockname()[1]}/0"
        with FeatureReader(url, timeout_s=0.05, raise_errors=True) as reader, pytest.raises(redis.TimeoutError):
            reader.read("u", ["a"])


def test_the_documented_rights_are_enough_and_no_more(valkey: str, client: Any, writer: FeatureWriter) -> None:
    """Catches a ranker that needs more rights than `docs/reference/redis-layout.md` says, or could write with those."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "redis-layout.md").read_text(encoding="utf-8")
    [rule] = [line.split() for line in page.splitlines() if line.strip().startswith("ACL SETUSER")]
    client.execute_command(*[word.replace("PASSWORD", "secret") for word in rule])
    writer.put_items([item("a", 1.0)])
    with FeatureReader(valkey.replace("//", "//ranker:secret@"), timeout_s=5.0) as reader:
        assert reader.read("u", ["a"]).present[0]
        assert reader.users(["u"])[0].version == "v1"
        assert reader.changed_items().written == ["a"]
        ranker: Any = reader._client()
        with pytest.raises(redis.exceptions.NoPermissionError):
            ranker.set(Keys().active(), "v2")
        with pytest.raises(redis.exceptions.NoPermissionError):
            ranker.mget(["other:secret"])
    client.acl_deluser("ranker")


def test_a_decoding_client_is_refused(valkey: str) -> None:
    """Catches a UnicodeDecodeError at the first request instead of a word at the start."""
    with redis.Redis.from_url(valkey, decode_responses=True) as client, pytest.raises(ValueError, match="decode_resp"):
        FeatureReader(client)


def test_importing_freshet_pulls_nothing_heavy() -> None:
    """Catches a ranker that must install, or wait for, what only workers need."""
    code = (
        "import sys; before = set(sys.modules); import freshet; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    answer = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    allowed = {"freshet", "schemas", "numpy", "redis", "hiredis"}
    # redis-py asks for these itself where they happen to be installed.
    optional = {"jwt", "cryptography", "OpenSSL", "requests", "typing_extensions", "async_timeout", "opentelemetry"}
    assert set(answer.stdout.split()) <= allowed | optional
