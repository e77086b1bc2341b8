"""What a ranker's own unit tests stand on: a fake reader returns what a real one would, without a server."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

import freshet
from freshet import AsyncFeatureReader, AsyncRankingReader, FeatureReader, InferredBehavior, RankingReader
from freshet._resp import pack_mget, unpack_mget
from freshet.records import ItemFeatures, ItemKnowledge, UserFeatures
from freshet.testing import AsyncFakeReader, FakeItem, FakeReader, FakeUser
from store.feature_writer import FeatureWriter
from store.versions import Versions
from tests.support.fakes import NOW_MS, FakeClock

ITEMS = {"a": [1.0, 0.5], "b": FakeItem([0.0, 0.1], age_seconds=90, tier=1)}
USERS = {"u": FakeUser([1.0, 0.0], [0.0, 2.0], {"b": 0.75}, age_seconds=5, degraded=True, history_length=3)}
IDS = ["b", "unknown", "a", "b"]


def same(first: Any, second: Any) -> bool:
    """Whether two results hold the same values, arrays included."""
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    names = getattr(type(first), "__dataclass_fields__", None)
    if not names:
        return bool(first == second)
    return type(first) is type(second) and all(same(getattr(first, name), getattr(second, name)) for name in names)


def test_a_fake_returns_what_a_real_reader_returns(valkey: str) -> None:
    """Catches a fake whose results have other types, widths, ages or rounding than those of Redis."""
    with redis.Redis.from_url(valkey) as client:
        Versions(client).activate("v1")
        writer, dims = FeatureWriter(client), 2
        vector = {"a": [1.0, 0.5], "b": [0.0, 0.1]}
        stored = {name: np.array(values, "<f2").tobytes() for name, values in vector.items()}
        made = NOW_MS - 90_000
        writer.put_items(
            [
                ItemFeatures("a", "v1", 2, NOW_MS, NOW_MS, dims, stored["a"]),
                ItemFeatures("b", "v1", 1, made, made, dims, stored["b"]),
            ]
        )
        both = [np.array(values, "<f2").tobytes() for values in ([1.0, 0.0], [0.0, 2.0])]
        seen = NOW_MS - 5_000
        user = UserFeatures("u", "v1", 2, seen, seen, dims, *both, [InferredBehavior("b", 0.75)], "", 3, True)
        writer.put_users([user])
        with FeatureReader(client, default=-1.0, clock=FakeClock()) as real:
            fake = FakeReader(ITEMS, USERS, default=-1.0)
            assert same(fake.read("u", IDS), real.read("u", IDS))
            assert same(fake.read("nobody", IDS), real.read("nobody", IDS))
            assert same(fake.items(IDS), real.items(IDS))
            assert all(map(same, fake.users(["u", "nobody"]), real.users(["u", "nobody"])))
            assert fake.knowledge("a") is real.knowledge("a") is None
            assert sorted(fake.changed_items().written) == sorted(real.changed_items().written)


def test_both_fakes_return_the_same() -> None:
    async def read() -> Any:
        async with AsyncFakeReader(ITEMS, USERS) as fake:
            return await fake.read("u", IDS), await fake.changed_items()

    fake = FakeReader(ITEMS, USERS)
    found, changes = asyncio.run(read())
    assert same(found, fake.read("u", IDS))
    assert changes == fake.changed_items()


def test_a_fake_serves_where_a_reader_is_wanted() -> None:
    """Catches a fake that a ranking reader cannot use, or that lacks a method of the real one."""

    async def read() -> Any:
        return await AsyncRankingReader(AsyncFakeReader(ITEMS, USERS)).read("u", ["a"], ["b"])

    found = RankingReader(FakeReader(ITEMS, USERS)).read("u", ["a"], ["b"])
    assert found.candidates.user.behaviors == (InferredBehavior("b", 0.75),)
    assert found.features.column("behavior_nearest_confidence").tolist() == [0.75]
    assert same(found, asyncio.run(read()))
    assert issubclass(FakeReader, FeatureReader)
    assert issubclass(AsyncFakeReader, AsyncFeatureReader)
    assert inspect.signature(FakeReader).parameters.keys() == inspect.signature(AsyncFakeReader).parameters.keys()


def test_an_outage_is_partial_and_ends() -> None:
    """Catches a ranker's outage test that a circuit breaker or a cached version would make depend on order."""
    fake = FakeReader(ITEMS, USERS)
    for _ in range(10):
        fake.outage = True
        found = fake.read("u", IDS)
        assert (found.partial, found.present.any(), found.answered.any()) == (True, False, False)
        with pytest.raises(redis.TimeoutError):
            fake.changed_items()
        fake.outage = False
        assert fake.read("u", IDS).present.tolist() == [True, False, True, True]
    strict = FakeReader(ITEMS, USERS, raise_errors=True)
    strict.outage = True
    with pytest.raises(redis.TimeoutError):
        strict.read("u", IDS)


def test_no_active_version_and_knowledge() -> None:
    known = ItemKnowledge("a", NOW_MS, NOW_MS, "f", summary="a tent")
    found = FakeReader(ITEMS, USERS, {"a": known}).knowledge("a")
    assert found is not None
    assert found.document["summary"] == "a tent"
    nothing = FakeReader(version="", dims=4).read("u", ["a"])
    assert (nothing.version, nothing.item_matrix.shape, nothing.partial) == ("", (1, 4), False)


@pytest.mark.parametrize(
    ("items", "users"),
    [
        ({"a": [1.0], "b": [1.0, 2.0]}, {}),
        ({"a": [1.0]}, {"u": [1.0, 2.0]}),
        ({}, {"u": FakeUser([1.0], [1.0, 2.0])}),
        ({"a": [float("nan")]}, {}),
        ({"a": [70_000.0]}, {}),
        ({"a": [[1.0]]}, {}),
        ({"a": []}, {}),
    ],
)
def test_what_redis_could_not_hold_is_refused(items: Any, users: Any) -> None:
    with pytest.raises(ValueError, match=r"dims|float16"):
        FakeReader(items, users)


def test_requests_are_read_back() -> None:
    """Catches a fake that loses ids which hold line ends or are no ASCII."""
    ids = ["a", "", "ü\r\n$3\r\nabc", "日本"]
    assert unpack_mget(pack_mget(["x"], "f:v1:i:", ids)) == ["x", *(f"f:v1:i:{one}" for one in ids)]


def test_a_repr_counts_and_dumps_no_array() -> None:
    """Catches a log line or an assertion message of 500 rows of numbers."""
    fake = FakeReader({str(n): np.ones(128) for n in range(500)}, {"u": FakeUser(np.ones(128), age_seconds=1.25)})
    found = fake.read("u", [*map(str, range(400)), "unknown"])
    user = "UserRead(present, version='v1', dims=128, age=1.2 s, tier=2, behaviors=0, history=0)"
    assert (
        repr(found) == f"FeatureRead(400 of 401 items present, version='v1', dims=128, age=0.0 to 0.0 s, user={user})"
    )
    assert repr(fake.items(["x"])) == "ItemsRead(0 of 1 items present, version='v1', dims=128)"
    assert repr(fake.users(["x"])) == "[UserRead(absent, version='v1')]"
    assert repr(fake.changed_items()).startswith("ItemChanges(version='v1', written=500, deleted=0")
    ranked = repr(RankingReader(fake).read("u", list(map(str, range(500)))))
    assert ranked.startswith("RankingRead(CandidateFeatures(500 candidates, 35 columns), history=0, behaviors=0")
    assert "array" not in ranked
    fake.outage = True
    down = repr(fake.read("u", ["1", "2"]))
    assert "2 not answered, partial: TimeoutError: no answer by the deadline, user=UserRead(not answered" in down
    known = FakeReader({"a": [1.0]}, knowledge={"a": ItemKnowledge("a", 0, 0, "f")}).knowledge("a")
    assert repr(known).startswith("KnowledgeRead('a', version='v1', age=")
    assert repr(known).endswith("claims=0)")


def test_the_code_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the first page that a ranker engineer reads, when the code has moved on."""
    readme = Path(__file__).resolve().parents[2] / "sdk" / "README.md"
    monkeypatch.setattr(freshet, "FeatureReader", lambda url: FakeReader())
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
