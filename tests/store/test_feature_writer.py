"""Newer wins, whatever the order, the batching and the number of times."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from freshet import FeatureReader, blob
from freshet.connect import connect, keys_for
from freshet.layout import Keys
from freshet.records import ItemFeatures, ItemKnowledge
from store.feature_writer import BYTES_PER_CALL, KEYS_PER_CALL, Deletion, FeatureWriter, ShapeMismatch, WriteResult
from store.functions import library
from store.versions import VersionRetiring
from tests.support.fakes import NOW_MS
from tests.support.samples import DIMS, item, user


@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.valkey) for kind in ("server", "cluster")])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    """One server or a Cluster."""
    clustered = request.param == "cluster"
    connected = connect(
        request.getfixturevalue("valkey_cluster").url if clustered else request.getfixturevalue("valkey")
    )
    yield connected
    connected.close()


@pytest.fixture
def keys(client: Any) -> Keys:
    return keys_for(client)


@pytest.fixture
def reader_of(client: Any) -> Iterator[Callable[..., FeatureReader]]:
    """Makes readers with time enough for a busy machine."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            FeatureReader(client, timeout_s=10.0, raise_errors=True, **{"dims": DIMS, **options})
        )


def indexed(client: Any, of: Callable[[str, int], str], version: str = "v1") -> list[str]:
    """The ids in one of the version's two indexes, over all buckets, sorted."""
    found = [client.zrange(of(version, bucket), 0, -1) for bucket in range(keys_for(client).buckets)]
    return sorted(one.decode() for part in found for one in part)


def place(keys: Keys, of: Callable[[str, int], str], one: str = "i1") -> str:
    """The key of version v1 that stands beside the entity `one`."""
    return of("v1", keys.bucket(one))


CLUSTERED = Keys(clustered=True)
SAME_BUCKET = next(one for one in map(str, range(10_000)) if CLUSTERED.bucket(one) == CLUSTERED.bucket("a"))
SAME_BUCKET_AS_I1 = next(one for one in map(str, range(10_000)) if CLUSTERED.bucket(one) == CLUSTERED.bucket("i1"))
# Few values, so that equal and neighboring ones meet; the large ones differ only beyond a double's 53 bits.
TIMES = st.sampled_from([-1, 0, 5, NOW_MS, 2**62, 2**62 + 1, -(2**62), -(2**62) - 1, 2**63 - 1, -(2**63)])
OFFSETS = st.sampled_from([-1, 0, 1, 2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**63 - 1])
WRITES = st.tuples(st.sampled_from(["a", SAME_BUCKET]), TIMES, st.sampled_from([1, 2, 255]), OFFSETS)


def order(write: tuple[str, int, int, int]) -> tuple[int, int, int]:
    return write[1:]


def test_what_stays_is_the_newest_of_all_that_came(client: Any, keys: Keys) -> None:
    """Catches any order of retries, replays and deletions that leaves an older feature, in Redis or in the answers."""
    writer = FeatureWriter(client)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(st.booleans(), st.lists(WRITES, min_size=1, max_size=5)), max_size=6))
    def newest_stays(calls: list[tuple[bool, list[tuple[str, int, int, int]]]]) -> None:
        client.flushdb()
        newest: dict[str, tuple[str, int, int, int]] = {}
        for retried, writes in calls:
            for _ in range(1 + retried):
                expected = []
                for write in writes:
                    before = newest.get(write[0])
                    older = before is not None and order(write) < order(before)
                    same = before is not None and order(write) == order(before)
                    expected.append(-1 if older else 0 if same else 1)
                    if not older:
                        newest[write[0]] = write
                assert put(writer, writes) == expected
        for one, (_, event_time, tier, offset) in newest.items():
            header = blob.decode_header(client.get(keys.item("v1", one)))
            assert header is not None
            assert (header.event_time, header.tier, header.sequence) == (event_time, tier, offset)
            assert header.deleted == (tier == 255)
        live = {one for one, write in newest.items() if write[2] != 255}
        assert indexed(client, keys.items) == sorted(live)
        assert indexed(client, keys.deleted) == sorted(newest.keys() - live)

    newest_stays()


def put(writer: FeatureWriter, writes: list[tuple[str, int, int, int]]) -> list[WriteResult]:
    """Items and deletions of one bucket in one server-side call, in this order."""
    keys = keys_for(writer._redis)
    rows = []
    for one, event_time, tier, offset in writes:
        if tier == 255:
            value = blob.encode_deletion(event_time, offset)
        else:
            value = blob.encode_item(item(one, event_time=event_time, tier=tier, source_offset=offset))
        rows.append((keys.item("v1", one), value))
    shared = [place(keys, of, "a") for of in (keys.bucket_shape, keys.items, keys.deleted, keys.retired)]
    cut = len(keys.item_stem("v1", keys.bucket("a")))
    call = shared + [key for key, _ in rows], [0, 60_000, cut, *[value for _, value in rows]]
    [answers] = library("features").call(writer._redis, "put", [call])
    return [WriteResult(answer) for answer in answers]


def test_answers_stand_in_the_order_of_the_records(client: Any, keys: Keys) -> None:
    """Catches answers mixed up between versions or calls: a lane would count, or retry, the wrong records."""
    writer = FeatureWriter(client)
    writer.put_items([item("i3", version="v2", event_time=NOW_MS + 1)])
    many = [item(f"x{n}") for n in range(2 * KEYS_PER_CALL + 1)]
    items = [item("i1"), item("i3", version="v2"), *many, item("i1"), item("i1", event_time=NOW_MS - 1)]
    results = writer.put_items(items)
    assert results[:2] == [WriteResult.WRITTEN, WriteResult.OLDER]
    assert set(results[2:-2]) == {WriteResult.WRITTEN}
    assert results[-2:] == [WriteResult.SAME, WriteResult.OLDER]
    assert len(indexed(client, keys.items)) == len(many) + 1


def test_large_records_are_split_into_more_calls(client: Any) -> None:
    """Catches a batch of long knowledge that holds up every ranker while the server copies it."""
    writer = FeatureWriter(client)
    long = [ItemKnowledge(f"i{n}", NOW_MS, NOW_MS, "f00", "x" * (BYTES_PER_CALL // 2)) for n in range(5)]
    huge = ItemKnowledge("huge", NOW_MS, NOW_MS, "f00", "x" * 2 * BYTES_PER_CALL)
    plan = writer._plan(writer._keys.knowledge_stem, [("v1", "i")] * 6, blob.encode_all_knowledge([*long, huge]), 0)
    assert [len(keys) - 4 for keys, _ in plan.calls] == [1] * 6
    assert writer.put_knowledge("v1", [*long, huge, *long]) == [WriteResult.WRITTEN] * 6 + [WriteResult.SAME] * 5


def test_nothing_to_write_is_no_call(client: Any) -> None:
    """Catches an empty batch that fails."""
    writer = FeatureWriter(client)
    assert writer.put_items([]) == writer.put_users([]) == writer.delete_items("v1", []) == []


def test_of_two_refreshes_on_the_same_event_the_later_stays(client: Any) -> None:
    """Catches a user whose second refresh is dropped because a basket's events share one millisecond."""
    writer = FeatureWriter(client)
    first, second = user(value=1.0), user(value=2.0, computed_time=NOW_MS + 60)
    assert writer.put_users([first, second, first]) == [WriteResult.WRITTEN, WriteResult.WRITTEN, WriteResult.OLDER]
    assert writer.put_users([second]) == [WriteResult.SAME]


def test_a_diffusion_refresh_outlives_a_later_fallback(client: Any) -> None:
    """Catches a worker without a checkpoint that overwrites the better reasoner's answer on the same history."""
    writer = FeatureWriter(client)
    later = user(tier=1, computed_time=NOW_MS + 60)
    assert writer.put_users([user(tier=2), later]) == [WriteResult.WRITTEN, WriteResult.OLDER]


def test_deleted_stays_deleted_until_something_newer(client: Any, reader_of: Callable[..., FeatureReader]) -> None:
    """Catches a late retry that revives a deleted item or an erased user, knowledge included."""
    writer = FeatureWriter(client)
    reader = reader_of(version="v1")
    knowledge = ItemKnowledge("i1", NOW_MS, NOW_MS, "f00", "Tea.")
    writer.put_items([item()])
    writer.put_users([user()])
    writer.put_knowledge("v1", [knowledge])
    assert writer.delete_items("v1", [Deletion("i1", NOW_MS + 1)]) == [WriteResult.WRITTEN]
    assert writer.delete_users("v1", [Deletion("u1", NOW_MS + 1)]) == [WriteResult.WRITTEN]
    late = [*writer.put_items([item()]), *writer.put_users([user()]), *writer.put_knowledge("v1", [knowledge])]
    assert late == [WriteResult.OLDER] * 3
    found = reader.read("u1", ["i1"])
    assert not found.present[0]
    assert not found.user.present
    assert reader.knowledge("i1") is None
    assert writer.put_items([item(event_time=NOW_MS + 2)]) == [WriteResult.WRITTEN]
    assert reader.items(["i1"]).present[0]


def test_a_deletion_of_knowledge_leaves_the_vector(client: Any, reader_of: Callable[..., FeatureReader]) -> None:
    """Catches a null on one compacted topic that empties another's view."""
    writer = FeatureWriter(client)
    writer.put_items([item()])
    writer.put_knowledge("v1", [ItemKnowledge("i1", NOW_MS, NOW_MS, "f00")])
    writer.delete_knowledge("v1", [Deletion("i1", NOW_MS + 1)])
    reader = reader_of(version="v1")
    assert reader.items(["i1"]).present[0]
    assert reader.knowledge("i1") is None


def test_users_and_marks_expire_and_items_do_not(client: Any, keys: Keys) -> None:
    """Catches a catalogue that vanishes a month after its last change, and users that stay for ever."""
    writer = FeatureWriter(client, ttl_s=100)
    writer.put_items([item("live"), item("dead")])
    writer.put_users([user()])
    writer.put_knowledge("v1", [ItemKnowledge("live", NOW_MS, NOW_MS, "f00")])
    writer.delete_items("v1", [Deletion("dead", NOW_MS + 1)])
    assert client.ttl(keys.item("v1", "live")) == client.ttl(keys.knowledge("v1", "live")) == -1
    for key in (keys.item("v1", "dead"), keys.knowledge("v1", "dead"), keys.user("v1", "u1")):
        assert 95 < client.ttl(key) <= 100


def test_each_kind_has_a_life_of_its_own(client: Any, keys: Keys) -> None:
    """Catches a kind that gets another's time to live, and a deletion that is forgotten too soon."""
    writer = FeatureWriter(client, ttl_s=100, item_ttl_s=200, knowledge_ttl_s=300, mark_ttl_s=400)
    writer.put_items([item("live"), item("dead")])
    writer.put_users([user()])
    writer.put_knowledge("v1", [ItemKnowledge("live", NOW_MS, NOW_MS, "f00")])
    writer.delete_items("v1", [Deletion("dead", NOW_MS + 1)])
    lives = [client.ttl(key) for key in (keys.user("v1", "u1"), keys.item("v1", "live"), keys.knowledge("v1", "live"))]
    lives += [client.ttl(key) for key in (keys.item("v1", "dead"), keys.knowledge("v1", "dead"))]
    assert [round(life, -1) for life in lives] == [100, 200, 300, 400, 400]


@pytest.mark.parametrize("kind", ["item", "user", "knowledge"])
def test_only_a_newer_write_prolongs_a_life(client: Any, keys: Keys, kind: str) -> None:
    """Catches a retry, a replay or a late record by which old features outlive their time."""
    writer = FeatureWriter(client, ttl_s=100, item_ttl_s=100, knowledge_ttl_s=100)
    key, write = {
        "item": (keys.item("v1", "i1"), lambda at: writer.put_items([item(event_time=at)])),
        "user": (keys.user("v1", "u1"), lambda at: writer.put_users([user(event_time=at)])),
        "knowledge": (
            keys.knowledge("v1", "i1"),
            lambda at: writer.put_knowledge("v1", [ItemKnowledge("i1", at, at, "f00")]),
        ),
    }[kind]
    write(NOW_MS)
    client.pexpire(key, 50_000)
    assert write(NOW_MS) == [WriteResult.SAME]
    assert write(NOW_MS - 1) == [WriteResult.OLDER]
    assert client.pttl(key) <= 50_000
    assert write(NOW_MS + 1) == [WriteResult.WRITTEN]
    assert client.pttl(key) > 90_000


def test_a_life_without_end_is_given_back(client: Any, keys: Keys) -> None:
    """Catches items that still expire after an operator set their time to live to 0."""
    FeatureWriter(client, item_ttl_s=100).put_items([item()])
    FeatureWriter(client).put_items([item(event_time=NOW_MS + 1)])
    assert client.pttl(keys.item("v1", "i1")) == client.pttl(place(keys, keys.items)) == -1


def test_expired_items_and_marks_leave_the_indexes(client: Any, keys: Keys) -> None:
    """Catches indexes that only grow, and a coverage counted over items that are gone."""
    client.zadd(place(keys, keys.deleted), {"long-gone": 1.0})
    client.zadd(place(keys, keys.items), {"expired": 1.0})
    FeatureWriter(client).put_items([item()])
    assert indexed(client, keys.deleted) == []
    assert indexed(client, keys.items) == ["expired", "i1"]
    FeatureWriter(client, item_ttl_s=100).put_items([item(event_time=NOW_MS + 1)])
    assert indexed(client, keys.items) == ["i1"]
    assert 95 < client.ttl(place(keys, keys.items)) <= 100


def test_a_deletion_takes_no_other_item_from_the_index(client: Any, keys: Keys) -> None:
    """Catches an index of live items that expires, or forgets what is older, by the life of a mark of deletion."""
    writer = FeatureWriter(client, ttl_s=100)
    writer.put_items([item("i1"), item(SAME_BUCKET_AS_I1)])
    client.zadd(place(keys, keys.items), {SAME_BUCKET_AS_I1: 1.0})
    writer.delete_items("v1", [Deletion("i1", NOW_MS + 1)])
    assert indexed(client, keys.items) == [SAME_BUCKET_AS_I1]
    assert client.pttl(place(keys, keys.items)) == -1
    assert 95 < client.ttl(place(keys, keys.deleted)) <= 100


@pytest.mark.parametrize("wrong", [{"ttl_s": 0}, {"item_ttl_s": -1}, {"mark_ttl_s": 0}, {"dtype": "float32"}])
def test_a_wrong_setting_is_refused(wrong: dict[str, Any]) -> None:
    """Catches features that expire at once, and a dtype that nobody can read."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FeatureWriter(redis.Redis(port=1), **wrong)


def test_a_deletion_reaches_every_version(client: Any, reader_of: Callable[..., FeatureReader]) -> None:
    """Catches an erased user or a deleted item that comes back with a rollback or an activation."""
    writer = FeatureWriter(client)
    versions = ["v1", "v2", "v3"]
    for version in versions:
        writer.put_items([item(version=version)])
        writer.put_users([user(version=version)])
        writer.put_knowledge(version, [ItemKnowledge("i1", NOW_MS, NOW_MS, "f00")])
    writer.put_items([item("i2", version="v3", event_time=NOW_MS + 5)])
    gone = [Deletion("i1", NOW_MS + 1), Deletion("i2", NOW_MS + 1)]
    assert writer.delete_items(["v1", *versions], gone) == [WriteResult.WRITTEN] * 2
    assert writer.delete_items(["v3"], gone) == [WriteResult.SAME, WriteResult.OLDER]
    assert writer.delete_users(versions, [Deletion("u1", NOW_MS + 1)]) == [WriteResult.WRITTEN]
    assert writer.delete_users([], [Deletion("u1", NOW_MS + 1)]) == []
    for version in versions:
        reader = reader_of(version=version)
        found = reader.read("u1", ["i1", "i2"])
        assert found.present.tolist() == [False, version == "v3"]
        assert not found.user.present
        assert reader.knowledge("i1") is None


def test_what_is_being_deleted_stays_deleted(client: Any, keys: Keys) -> None:
    """Catches a late worker, or an erasure in every version, that brings a version back to life behind its deletion."""
    writer = FeatureWriter(client)
    for fence in keys.fences("v1"):
        client.set(fence, 1)
    deleted = writer.delete_items(["v1", "v2"], [Deletion("i1", NOW_MS)])
    assert deleted == [WriteResult.SAME]
    assert client.get(keys.item("v2", "i1"))
    for write in (
        lambda: writer.put_items([item()]),
        lambda: writer.put_users([user()]),
        lambda: writer.put_knowledge("v1", [ItemKnowledge("i1", NOW_MS, NOW_MS, "f00")]),
    ):
        with pytest.raises(VersionRetiring):
            write()
    everywhere = {"target_nodes": client.PRIMARIES} if keys.clustered else {}
    assert sorted(key.decode() for key in client.keys("f:v1:*", **everywhere)) == sorted(keys.fences("v1"))


def test_one_bad_record_is_named_and_nothing_is_written(client: Any) -> None:
    """Catches a batch half written, and a lane that cannot tell which record to set aside."""
    bad = dataclasses.replace(item("i2"), vector=b"\x00")
    with pytest.raises(blob.BlobError) as caught:
        FeatureWriter(client).put_items([item("i1"), bad])
    assert caught.value.index == 1
    assert client.dbsize() == 0


def test_a_version_has_one_width(client: Any, keys: Keys) -> None:
    """Catches two models that write into one version: a matrix of mixed rows, or a ranker's crash."""
    writer = FeatureWriter(client)
    wide = item("i9", dims=2 * DIMS)
    with pytest.raises(ShapeMismatch, match="the version has 8 float16, a vector has 16 float16"):
        writer.put_items([item("i1"), wide])
    assert client.dbsize() == 0
    writer.put_items([item("i1")])
    with pytest.raises(ShapeMismatch):
        writer.put_users([user(dims=2 * DIMS)])
    assert writer.put_items([dataclasses.replace(wide, version="v2")]) == [WriteResult.WRITTEN]
    assert client.get(place(keys, keys.bucket_shape)) == b"8 float16"


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_version_has_one_dtype(client: Any, keys: Keys, dtype: str, reader_of: Callable[..., FeatureReader]) -> None:
    """Catches workers of two settings that fill one version, half of which no reader can see."""
    writer = FeatureWriter(client, dtype=dtype)
    assert writer.put_items([item(value=2.0)]) == writer.put_users([user()]) == [WriteResult.WRITTEN]
    assert client.get(place(keys, keys.bucket_shape)) == f"8 {dtype}".encode()
    with pytest.raises(ShapeMismatch, match=f"the version has 8 {dtype}, a vector has 8 float16"):
        FeatureWriter(client).put_items([item(event_time=NOW_MS + 1)])
    found = reader_of(version="v1").read("u1", ["i1"])
    assert found.item_matrix[0].tolist() == pytest.approx([2.0] * DIMS)
    assert found.user.inferred_vector.tolist() == pytest.approx([-1.0] * DIMS)


def test_the_library_is_loaded_again_where_it_went_missing(client: Any) -> None:
    """Catches a worker that must be restarted because Redis came back empty."""
    writer = FeatureWriter(client)
    writer.put_items([item("i1")])
    client.function_flush()
    assert writer.put_items([item("i1")]) == [WriteResult.SAME]


def test_a_foreign_value_under_the_key_is_an_error(client: Any, keys: Keys) -> None:
    """Catches a write over what is none of ours (another type), and one that dies on a string too short."""
    client.lpush(keys.item("v1", "list"), "x")
    client.set(keys.item("v1", "text"), "short")
    writer = FeatureWriter(client)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        writer.put_items([item("list")])
    assert writer.put_items([item("text")]) == [WriteResult.WRITTEN]


@pytest.mark.parametrize("version", ["", "a:b", "due"])
def test_a_wrong_version_is_refused(client: Any, version: str) -> None:
    """Catches a record whose version would write over other keys."""
    with pytest.raises(blob.BlobError, match="version") as caught:
        FeatureWriter(client).put_items([item(), item(version=version)])
    assert caught.value.index == 1
    assert client.dbsize() == 0


def test_ids_of_any_language_are_kept(client: Any, reader_of: Callable[..., FeatureReader]) -> None:
    """Catches an index that cuts an id at the wrong byte."""
    writer = FeatureWriter(client, prefix="shop.de")
    ids = ["茶", "a:b", " ", "x" * 300]
    features: list[ItemFeatures] = [item(one) for one in ids]
    writer.put_items(features)
    reader = reader_of(prefix="shop.de", version="v1")
    assert sorted(reader.changed_items().written) == sorted(ids)
    assert reader.items(ids).present.all()
