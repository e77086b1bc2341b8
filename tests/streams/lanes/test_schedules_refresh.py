"""user-refresh, stopped at each of its await points and failed at each of its calls: nobody is forgotten.

As `test_schedules.py`; what stands for the position is the due-set: a user may only leave it, for good, when features
that know the newest event are on the topic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from freshet.layout import Keys
from freshet.records import ItemFeatures, ItemTier, UserFeatures
from schemas.codec import Codec
from store.feature_writer import FeatureWriter
from store.functions import Library
from store.histories import HistoryBatch, HistoryEvent, HistoryStore, QueuedVersions
from store.refresh_queue import RefreshQueue
from streams.errors import DeliveryFailed
from streams.lanes.user_publisher import UserPublisher
from streams.lanes.user_refresh import UserRefreshLane
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.support.fakes_broker import FakeBroker
from tests.support.lanes import user_refresh
from tests.support.schedules import Calls, SlowProducer, StepLoop, stepping

NOW = 1_700_000_000_000
USERS = ("a", "b", "c")
TOPIC = "user-features-v1"
KEYS = Keys("f")
CODEC = Codec()


class Unheard(Exception):
    """An error that no table names: fatal."""


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


class World:
    """Three users who are due, over a Redis and a broker that outlive the lane."""

    def __init__(self, valkey: str, client: redis.Redis, home: Path) -> None:
        client.flushall()
        self.client, self.broker = client, FakeBroker()
        self.settings = Settings.load({}, redis=valkey, home=home, dims=8, refresh_interval_s=0, refresh_batch=2)
        vectors = np.random.default_rng(0).standard_normal((6, 8)).astype("<f2")
        items = [ItemFeatures(f"i{n}", "v1", ItemTier.TEXT, NOW, NOW, 8, v.tobytes()) for n, v in enumerate(vectors)]
        FeatureWriter(client).put_items(items)
        events = [HistoryEvent(user, f"i{n}", "view", NOW + n, f"e{n}") for user in USERS for n in range(3)]
        HistoryStore(client).append(HistoryBatch.of(events), QueuedVersions(["v1"]))

    def lane(self, loop: StepLoop, calls: Calls) -> UserRefreshLane:
        resources = Resources(self.settings, producer=SlowProducer(self.broker, loop, calls))
        lane = user_refresh(resources)
        lane._inference.reasoner.refresher()
        lane._inference.infer = calls.wrap(lane._inference.infer)  # type: ignore[method-assign]
        return lane

    def durable(self) -> set[str]:
        found = [CODEC.decode(UserFeatures, value) for value in self.broker.values(TOPIC) if value is not None]
        return {one.user_id for one in found if one.event_time == NOW + 2}

    def check(self) -> None:
        """Fail where a user is neither refreshed nor still to be."""
        waiting = [self.client.zrange(key("v1"), 0, -1) for key in (KEYS.due, KEYS.waiting, KEYS.leased)]
        owed = {user.decode() for part in waiting for user in part}
        assert owed | self.durable() >= set(USERS), f"forgotten: {set(USERS) - owed - self.durable()}"

    def finish(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The next worker, when the leases of the dead one have run out."""
        for user in self.client.zrange(KEYS.leased("v1"), 0, -1):
            self.client.zadd(KEYS.leased("v1"), {user: 1})
        with stepping(monkeypatch) as loop:
            lane = self.lane(loop, Calls())
            for _ in range(4):
                task = loop.create_task(lane.refresh_once())
                loop.finish(task.done)
                task.result()
        assert self.durable() == set(USERS)
        assert RefreshQueue(self.client, "v1").size() == 0


def work(
    world: World, monkeypatch: pytest.MonkeyPatch, calls: Calls, stop_at: int | None, how: str
) -> tuple[int, BaseException | None]:
    """Two batches, or up to `stop_at`; answers the steps they took, and what ended them."""
    steps = 0
    with monkeypatch.context() as patched, stepping(patched) as loop:
        lane = world.lane(loop, calls)
        call = Library.call
        patched.setattr(Library, "call", calls.wrap(call))
        for _ in range(2):
            task = loop.create_task(lane.refresh_once())
            while not task.done() and steps != stop_at:
                loop.step()
                steps += 1
                world.check()
            if not task.done():
                if how == "cancel":
                    task.cancel()
                    loop.finish(task.done)
                break
            if error := task.exception():
                return steps, error
        patched.setattr(Library, "call", call)
        if how == "crash":  # a dead process gives nothing back
            patched.setattr(RefreshQueue, "release", lambda *_: 0)
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.step()
    return steps, None


@pytest.mark.parametrize("how", ["crash", "cancel"])
def test_stopped_at_every_await_point(
    valkey: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    """Catches a lease completed before the features are confirmed, and users lost with a cancelled worker."""
    whole, _ = work(World(valkey, client, tmp_path), monkeypatch, Calls(), None, how)
    for stop_at in range(whole):
        world = World(valkey, client, tmp_path)
        work(world, monkeypatch, Calls(), stop_at, how)
        world.check()
        world.finish(monkeypatch)
    assert whole > 20
    print(f"user-refresh: {whole} await points, {how}")


@pytest.mark.parametrize("error", [DeliveryFailed("away"), Unheard("what is this")], ids=["transient", "fatal"])
def test_failed_at_every_call(
    valkey: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    """Catches an error of Redis, Kafka or the reasoner that is taken for success."""
    counting = Calls()
    work(World(valkey, client, tmp_path), monkeypatch, counting, None, "")
    assert counting.made > 8
    for fail_at in range(counting.made):
        world = World(valkey, client, tmp_path)
        work(world, monkeypatch, Calls(fail_at, error), None, "")
        world.check()
        world.finish(monkeypatch)
    print(f"user-refresh: {counting.made} calls failed, one each time")


def test_a_lane_that_completes_first_is_condemned(
    valkey: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Catches a check that is content with any lane."""
    send = UserPublisher._send

    async def late(self: UserPublisher, features: Any) -> None:
        token = client.zrange(KEYS.leased("v1"), 0, -1)
        client.zrem(KEYS.leased("v1"), *token)
        await send(self, features)

    monkeypatch.setattr(UserPublisher, "_send", late)
    with pytest.raises(AssertionError, match="forgotten"):
        work(World(valkey, client, tmp_path), monkeypatch, Calls(), None, "")
