"""Two versions, written, retried, replayed, deleted from, activated and rolled back in any order: the newest stays.

What a reader must see is worked out here by a rule of two lines: of each entity the greatest (event time, tier,
sequence) that was ever written, in the version that is active.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freshet import FeatureReader, LocalCache
from freshet.connect import connect
from store.feature_writer import Deletion, FeatureWriter
from store.versions import VersionError, Versions
from tests.support.fakes import NOW_MS
from tests.support.samples import DIMS, item, user
from tests.support.worlds import Blocking

VERSIONS, IDS = ("v1", "v2"), ("a", "b", "c")
DELETION_TIER = 255
PREFIXES = (f"p{n}" for n in itertools.count())


@dataclass(frozen=True)
class Write:
    """One record; its value says which one it is."""

    kind: str
    version: str
    id: str
    event_time: int
    tier: int
    sequence: int

    @property
    def order(self) -> tuple[int, int, int]:
        return self.event_time, self.tier, self.sequence

    @property
    def value(self) -> float:
        parts = (VERSIONS.index(self.version), IDS.index(self.id), self.event_time, self.tier, self.sequence)
        return float(int("".join(map(str, parts)), 4))


writes = st.builds(
    Write,
    st.sampled_from(["item", "user"]),
    st.sampled_from(VERSIONS),
    st.sampled_from(IDS),
    st.integers(0, 2),
    st.sampled_from([1, 2, DELETION_TIER]),
    st.integers(0, 3),
)
steps = st.one_of(
    st.tuples(st.just("write"), st.lists(writes, min_size=1, max_size=6)),
    st.tuples(st.just("retry"), st.integers(0, 30)),
    st.tuples(st.just("replay"), st.just(None)),
    st.tuples(st.just("activate"), st.sampled_from(VERSIONS)),
    st.tuples(st.just("rollback"), st.just(None)),
)


class Interleaving:
    """Takes steps on a real server, and knows what must stand there afterwards."""

    def __init__(self, client: Any, url: str) -> None:
        prefix = next(PREFIXES)
        self.writer = FeatureWriter(client, prefix)
        self.versions = Versions(client, prefix)
        self.versions.activate("v1")
        self.active, self.previous = "v1", ""
        self.newest: dict[tuple[str, str, str], Write] = {}
        self.calls: list[list[Write]] = []
        options: dict[str, Any] = {"timeout_s": 10.0, "dims": DIMS}
        self.readers: list[Any] = [make(url, prefix, **options) for make in (FeatureReader, Blocking)]
        self.pinned = {version: FeatureReader(url, prefix, version=version, **options) for version in VERSIONS}

    def take(self, step: tuple[str, Any]) -> None:
        what, given = step
        if what == "write":
            self.calls.append(given)
            self.write(given)
        elif what == "retry" and self.calls:
            self.write(self.calls[given % len(self.calls)])
        elif what == "replay":
            for call in self.calls:
                self.write(call)
        elif what == "activate":
            self.versions.activate(given)
            if given != self.active:
                self.active, self.previous = given, self.active
        elif what == "rollback":
            if self.previous:
                self.versions.rollback()
                self.active, self.previous = self.previous, self.active
            else:
                with pytest.raises(VersionError):
                    self.versions.rollback()

    def write(self, call: list[Write]) -> None:
        for one in call:
            place = (one.kind, one.version, one.id)
            if place not in self.newest or one.order > self.newest[place].order:
                self.newest[place] = one
        change = [(one, {"event_time": NOW_MS + one.event_time, "version": one.version}) for one in call]
        live = [(one, {**fields, "tier": one.tier}) for one, fields in change if one.tier != DELETION_TIER]
        items = [item(one.id, one.value, source_offset=one.sequence, **f) for one, f in live if one.kind == "item"]
        users = [user(one.id, one.value, computed_time=one.sequence, **f) for one, f in live if one.kind == "user"]
        self.writer.put_items(items)
        self.writer.put_users(users)
        for one in call:
            if one.tier == DELETION_TIER:
                delete = self.writer.delete_items if one.kind == "item" else self.writer.delete_users
                delete(one.version, [Deletion(one.id, NOW_MS + one.event_time, one.sequence)])

    def check(self) -> None:
        for reader in (*self.readers, self.pinned[self.active]):
            self.compare(reader, self.active)
        for version, reader in self.pinned.items():
            self.compare(reader, version)

    def compare(self, reader: Any, version: str) -> None:
        found = [reader.read(one, IDS) for one in IDS]
        assert {each.version for each in found} == {version}
        assert found[0].item_matrix[:, 0].tolist() == [self.wanted("item", version, one) for one in IDS]
        logs = [each.user.log_vector[0] for each in found]
        assert logs == [self.wanted("user", version, one) for one in IDS]

    def wanted(self, kind: str, version: str, one: str) -> float:
        newest = self.newest.get((kind, version, one))
        return 0.0 if newest is None or newest.tier == DELETION_TIER else newest.value

    def close(self) -> None:
        for reader in (*self.readers, *self.pinned.values()):
            reader.close()


@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.valkey) for kind in ("one server", "cluster")])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "cluster":
        return str(request.getfixturevalue("valkey_cluster").url)
    return str(request.getfixturevalue("valkey"))


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    connected: Any = connect(url)
    yield connected
    connected.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(taken=st.lists(steps, max_size=14))
def test_the_newest_stays_whatever_the_order(url: str, client: Any, taken: list[tuple[str, Any]]) -> None:
    """Catches an older feature over a newer one, a deletion undone, and a reader of the wrong version."""
    world = Interleaving(client, url)
    try:
        world.check()
        for step in taken:
            world.take(step)
            world.check()
    finally:
        world.close()


def test_thousands_of_reads_while_everything_moves(url: str, client: Any) -> None:
    """Catches one row of another version, and one that goes back in time, under writes and swaps without a pause."""
    prefix = next(PREFIXES)
    ids = [f"i{n}" for n in range(40)]
    versions, stopped = Versions(client, prefix), threading.Event()
    bases = {"v1": 0, "v2": 1_024}  # with 1,023 ticks the values are whole in float16

    def put(version: str, tick: int, some: list[str], who: list[str]) -> None:
        fields = {"event_time": NOW_MS + tick, "version": version}
        value = float(bases[version] + tick)
        writer.put_items([item(one, value, **fields) for one in some])
        writer.put_users([user(one, value, **fields) for one in who])

    writer = FeatureWriter(client, prefix)
    for version in VERSIONS:
        put(version, 0, ids, ["u"])
    versions.activate("v1")

    def write(seed: int) -> None:
        chance = random.Random(seed)
        for tick in range(1, 1_023):
            if stopped.is_set():
                return
            # Late retries and replays among what is new.
            put(chance.choice(VERSIONS), chance.choice([tick, tick, tick // 2]), chance.sample(ids, 8), ["u"])

    def swap() -> None:
        while not stopped.is_set():
            versions.activate("v2")
            stopped.wait(0.002)
            versions.rollback()
            stopped.wait(0.002)

    wrong: list[Any] = []
    seen: set[str] = set()

    def read(make: Any, reads: int, **options: Any) -> None:
        reader = make(url, prefix, timeout_s=30.0, dims=DIMS, **options)
        floor = {(version, one): -1.0 for version in VERSIONS for one in (*ids, "u")}
        for _ in range(reads):
            found = reader.read("u", ids)
            seen.add(found.version)
            values = [*found.item_matrix[:, 0].tolist(), float(found.user.log_vector[0])]
            low = bases[found.version]
            if found.partial or not all(low <= value < low + 1_024 for value in values):
                wrong.append(("mixed", found.version, values))
            for one, value in zip((*ids, "u"), values, strict=True):
                if value < floor[found.version, one]:
                    wrong.append(("back in time", found.version, one, value))
                floor[found.version, one] = value
        reader.close()

    readers = [
        threading.Thread(target=read, args=(FeatureReader, 1_200)),
        threading.Thread(target=read, args=(Blocking, 800)),
        threading.Thread(target=read, args=(FeatureReader, 1_200), kwargs={"cache": LocalCache(30, 0.05)}),
    ]
    movers = [threading.Thread(target=swap), threading.Thread(target=write, args=(1,))]
    for thread in (*movers, *readers):
        thread.start()
    for thread in readers:
        thread.join()
    stopped.set()
    for thread in movers:
        thread.join()
    assert wrong == []
    assert seen == set(VERSIONS)
