"""What a ranking request reads: one round trip once the user is known, one version, and the right rows cut out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import redis

from freshet import AsyncFeatureReader, FeatureReader, InferredBehavior
from freshet.layout import Keys
from freshet.ranking import RankingOptions, candidate_features
from freshet.ranking_reader import AsyncRankingReader, RankingRead, RankingReader
from store.feature_writer import FeatureWriter
from store.versions import Versions
from tests.support.fakes import NOW_MS
from tests.support.samples import DIMS, item, user

Ask = Callable[..., RankingRead]
Open = Callable[..., FeatureReader]


@pytest.fixture
def client(valkey: str) -> Any:
    with redis.Redis.from_url(valkey) as connected:
        yield connected


@pytest.fixture
def writer(client: Any) -> FeatureWriter:
    Versions(client).activate("v1")
    writer = FeatureWriter(client)
    writer.put_items([item(name, value) for name, value in zip("abcde", (1.0, -1.0, 2.0, 3.0, 4.0), strict=True)])
    writer.put_users([user("u", behaviors=[InferredBehavior("d", 0.75), InferredBehavior("gone", 0.5)])])
    return writer


@pytest.fixture
def opened(client: Any) -> Iterator[Open]:
    """Makes readers and closes them."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(FeatureReader(client, **options))


@pytest.fixture(params=["threads", "asyncio"])
def ask(request: Any, valkey: str) -> Iterator[Ask]:
    """`read` of a ranking reader of either kind, the same one each time."""
    if request.param == "threads":
        with FeatureReader(valkey) as reader:
            yield RankingReader(reader).read
        return
    with asyncio.Runner() as runner:
        reader = AsyncFeatureReader(valkey)
        ranking = AsyncRankingReader(reader)
        yield lambda *ids: runner.run(ranking.read(*ids))
        runner.run(reader.aclose())


def commands(client: Any) -> int:
    """How many `MGET`s since the last look."""
    calls = client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"]
    client.config_resetstat()
    return int(calls)


def test_history_and_behaviors_are_cut_out_of_one_answer(client: Any, writer: FeatureWriter, ask: Ask) -> None:
    """Catches rows off by one, candidates of the wrong length, and columns made of something else."""
    for _ in range(2):  # the second time the behaviors come with the rest
        found = ask("u", ["a", "none", "b"], ["c", "none"])
        assert found.candidates.item_matrix[:, 0].tolist() == [1, 0, -1]
        assert found.candidates.present.tolist() == [True, False, True]
        assert len(found.candidates.age_seconds) == len(found.candidates.tier) == len(found.candidates.answered) == 3
        assert found.history[:, 0].tolist() == [2, 0]
        assert found.behaviors[:, 0].tolist() == [3, 0]
        by_hand = candidate_features(found.candidates, found.history, found.behaviors)
        assert (found.features.matrix == by_hand.matrix).all()
        assert found.features.column("history_nearest").tolist() == pytest.approx([1, -1, -1])
        assert found.features.column("behavior_nearest_confidence").tolist() == [0.75, 0, 0.75]
        assert (found.candidates.partial, found.candidates.errors) == (False, ())


def test_one_round_trip_once_the_user_is_known(client: Any, writer: FeatureWriter, ask: Ask) -> None:
    """Catches a second trip for behaviors that are here already or are candidates, and none after a refresh."""
    ask("nobody", ["a"])  # asks which version is active
    commands(client)
    trips = []
    for _ in range(3):
        ask("u", ["a", "b"], ["c"])
        trips.append(commands(client))
    assert trips == [2, 1, 1]
    writer.put_users([user("u", behaviors=[InferredBehavior("e", 1.0)], event_time=NOW_MS + 1)])
    commands(client)  # the writer's own
    for _ in range(2):
        assert ask("u", ["a"]).behaviors[:, 0].tolist() == [4]
        trips.append(commands(client))
    writer.put_users([user("u", behaviors=[InferredBehavior("a", 1.0)], event_time=NOW_MS + 2)])
    commands(client)
    assert ask("u", ["a"], ["e"]).behaviors[:, 0].tolist() == [1]
    assert [*trips, commands(client)] == [2, 1, 1, 2, 1, 1]


def test_a_readers_default_is_no_history(writer: FeatureWriter, opened: Open) -> None:
    """Catches the default of absent items taken for what the user did, which would look the same for all of them."""
    ranking = RankingReader(opened(default=-1.0))
    for _ in range(2):
        found = ranking.read("u", ["a", "none"], ["c", "none"])
        assert found.candidates.item_matrix[:, 0].tolist() == [1, -1]
        assert (found.history[:, 0].tolist(), found.behaviors[:, 0].tolist()) == ([2, 0], [3, 0])
        assert found.features.matrix[:, :2].tolist() == [[pytest.approx(DIMS), pytest.approx(1)], [0, 0]]
        assert found.features.column("history_sim_00").tolist() == [0, 0]


def test_what_no_column_needs_is_not_read(client: Any, writer: FeatureWriter) -> None:
    """Catches items fetched in vain."""

    class Recording(FeatureReader):
        asked: list[list[str]] = []  # noqa: RUF012

        def read(self, user_id: str, item_ids: Sequence[str], **more: Any) -> Any:
            self.asked.append(list(item_ids))
            return super().read(user_id, item_ids, **more)

    with Recording(client) as reader:
        ranking = RankingReader(reader, RankingOptions(groups=("item", "user_vectors")))
        for _ in range(2):
            found = ranking.read("u", ["a"], ["c"])
    assert Recording.asked == [["a"], ["a"]]
    assert found.history.shape == found.behaviors.shape == (0, DIMS)
    assert found.features.matrix.shape == (1, 7)


def test_the_memory_of_users_is_bounded(client: Any, writer: FeatureWriter, opened: Open) -> None:
    """Catches a ranker that grows with every user it has seen, and one that forgets a user it has just read."""
    behaviors = [InferredBehavior("d", 0.5)]
    writer.put_users([user(name, behaviors=behaviors) for name in ("u", "x", "y")])
    for most, expected in ((2, [2, 2, 1, 2, 1, 2]), (0, [2] * 6)):
        ranking = RankingReader(opened(version="v1"), remembered_users=most)
        commands(client)
        trips = []
        for name in ("u", "x", "u", "y", "u", "x"):
            ranking.read(name, ["a"])
            trips.append(commands(client))
        assert trips == expected
    with pytest.raises(ValueError, match="remembered_users is -1"):
        RankingReader(opened(), remembered_users=-1)


def test_an_empty_request_and_an_unknown_user(client: Any, ask: Ask) -> None:
    """Catches a new platform's first request that fails: nothing active, nobody known, no candidates."""
    found = ask("u", [])
    assert found.features.matrix.shape == (0, 35)
    found = ask("u", ["a", "b"], ["c"])
    assert np.isfinite(found.features.matrix).all()
    assert not found.features.column("item_present").any()


def test_no_two_versions_in_one_request(valkey: str, client: Any, opened: Open) -> None:
    """Catches behaviors of one version beside candidates of another, where an activation falls between two trips."""
    writer = FeatureWriter(client)
    for version, value in (("v1", 7.0), ("v2", -7.0)):
        writer.put_items([item(name, value, version=version) for name in "abc"])
        writer.put_users([user("u", value, version=version, behaviors=[InferredBehavior("c", 0.5)])])
    Versions(client).activate("v1")
    stopped = threading.Event()

    def swap() -> None:
        with redis.Redis.from_url(valkey) as own:
            while not stopped.is_set():
                for version in ("v1", "v2"):
                    own.set(Keys().active(), version)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        ranking = RankingReader(opened(timeout_s=5), remembered_users=0)
        seen = set()
        for _ in range(300):
            found = ranking.read("u", ["a"], ["b"])
            value = {"v1": 7.0, "v2": -7.0}[found.candidates.version]
            rows = (found.candidates.item_matrix, found.history, found.behaviors, found.candidates.user.log_vector)
            assert {float(one) for row in rows for one in row.ravel()} == {value}
            seen.add(value)
    finally:
        stopped.set()
        swapper.join()
    assert seen == {7.0, -7.0}


def test_an_outage_is_flagged_and_keeps_every_shape(client: Any, writer: FeatureWriter, opened: Open) -> None:
    """Catches an exception in the ranker, NaN, and behaviors that are forgotten because nobody answered."""
    ranking = RankingReader(opened(timeout_s=0.2))
    ranking.read("u", ["a"], ["c"])
    client.execute_command("CLIENT", "PAUSE", 500, "ALL")
    found = ranking.read("u", ["a"], ["c"])
    assert found.candidates.partial
    assert found.candidates.errors
    assert np.isfinite(found.features.matrix).all()
    assert found.features.matrix.shape == (1, 35)
    assert (found.history == 0).all()
    client.ping()
    commands(client)
    found = ranking.read("u", ["a"], ["c"])
    assert not found.candidates.partial
    assert commands(client) == 1
