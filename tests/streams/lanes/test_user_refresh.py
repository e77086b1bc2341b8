"""user-refresh on a real Redis and a broker in memory: who is refreshed, by what, and what a failure leaves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import redis

from freshet.layout import Keys
from freshet.records import ItemFeatures, ItemTier, UserFeatures, UserTier
from models.encoder.aligner import LinearAligner
from models.reasoner.checkpoint import ALIGNER, save
from schemas.codec import Codec
from store.feature_writer import Deletion, FeatureWriter
from store.histories import HistoryBatch, HistoryEvent, HistoryStore, QueuedVersions
from store.refresh_queue import RefreshPolicy
from streams.errors import DeliveryFailed
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.models.reasoner.reasoner_tools import checkpoint
from tests.support.fakes import NOW_MS
from tests.support.fakes_broker import FakeBroker, FakeProducer
from tests.support.fakes_encoder import FakeEncoder
from tests.support.lanes import user_refresh

TOPIC = "user-features-v1"
CODEC = Codec()


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


def make_resources(valkey: str, broker: FakeBroker, tmp_path, **settings: object) -> Resources:
    wanted = {
        "redis": valkey,
        "home": tmp_path,
        "refresh_interval_s": 0,
        "dims": 8,
        **settings,
    }
    return Resources(Settings.load({}, **wanted), producer=FakeProducer(broker), encoder=FakeEncoder(dims=32))


@pytest.fixture
async def resources(valkey: str, broker: FakeBroker, tmp_path):
    resources = make_resources(valkey, broker, tmp_path)
    yield resources
    await resources.close()


def write_items(client: redis.Redis, ids: Sequence[str], seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((len(ids), 8)).astype("<f2")
    FeatureWriter(client, ttl_s=3600).put_items(
        [
            ItemFeatures(one, "v1", ItemTier.TEXT, NOW_MS + seed, NOW_MS, 8, vector.tobytes())
            for one, vector in zip(ids, vectors, strict=True)
        ]
    )
    return vectors


def write_events(client: redis.Redis, user: str, items: Sequence[str], at: int = NOW_MS) -> None:
    events = [HistoryEvent(user, one, "view", at + n, offset=at + n) for n, one in enumerate(items)]
    HistoryStore(client, policy=RefreshPolicy(interval_s=0)).append(HistoryBatch.of(events), QueuedVersions(["v1"]))


def published(broker: FakeBroker) -> list[UserFeatures]:
    return [CODEC.decode(UserFeatures, value or b"") for value in broker.values(TOPIC)]


ITEMS = [f"i{n}" for n in range(8)]


async def test_due_users_get_features_under_their_id(
    client: redis.Redis, resources: Resources, broker: FakeBroker
) -> None:
    """Catches features without behaviors, vectors or the event time that freshness counts from."""
    write_items(client, ITEMS)
    for n in range(6):
        write_events(client, f"u{n}", ["i0", "i1", "i2"][: 2 + n % 2])
    assert await user_refresh(resources).refresh_once() == 6
    found = {one.user_id: one for one in published(broker)}
    assert set(found) == {f"u{n}" for n in range(6)}
    assert {record.key for record in broker.logs[TOPIC]} == {one.encode() for one in found}
    assert found["u0"].tier == UserTier.FALLBACK
    assert found["u0"].event_time == NOW_MS + 1
    assert [b.item_id for b in found["u0"].behaviors] == ["i2"]
    assert np.linalg.norm(np.frombuffer(found["u0"].log_vector, "<f2").astype(float)) == pytest.approx(1, abs=0.01)
    assert await user_refresh(resources).refresh_once() == 0


async def test_the_catalogue_follows_redis(client: redis.Redis, resources: Resources) -> None:
    """Catches an item that is inferred after its deletion, or one that came after the start and never is."""
    lane = user_refresh(resources)
    write_items(client, ITEMS[:3])
    await lane.refresh_once()
    assert lane._inference.catalogue.live == 3
    newer = write_items(client, ["i2", "i9"], seed=1)
    FeatureWriter(client, ttl_s=3600).delete_items("v1", [Deletion("i0", NOW_MS + 10)])
    await lane.refresh_once()
    vectors, present = lane._inference.catalogue.items.get(["i0", "i1", "i2", "i9"])
    assert present.tolist() == [False, True, True, True]
    assert lane._inference.catalogue.live == 3
    np.testing.assert_allclose(vectors[2], newer[0], atol=1e-2)


async def test_nobody_is_claimed_while_there_is_nothing_to_choose_from(
    client: redis.Redis, resources: Resources
) -> None:
    """Catches users who are refreshed to nothing at the start and stay so."""
    write_events(client, "u", ["i0"])
    lane = user_refresh(resources)
    assert await lane.refresh_once() == 0
    write_items(client, ITEMS)
    assert await lane.refresh_once() == 1


async def test_two_workers_share_the_users_and_refresh_nobody_twice(
    client: redis.Redis, valkey: str, broker: FakeBroker, tmp_path
) -> None:
    """Catches a claim without a lease."""
    write_items(client, ITEMS)
    users = [f"u{n}" for n in range(100)]
    for user in users:
        write_events(client, user, ["i0", "i1"])
    all_resources = [make_resources(valkey, broker, tmp_path, refresh_batch=10) for _ in range(2)]
    lanes = [user_refresh(resources) for resources in all_resources]
    for lane in lanes:
        await lane.start()
    async with asyncio.timeout(20):
        while len(broker.logs[TOPIC]) < 100:
            await asyncio.sleep(0.05)
    for lane in lanes:
        await lane.stop()
    assert sorted(one.user_id for one in published(broker)) == sorted(users)
    for resources in all_resources:
        await resources.close()


async def test_a_dead_workers_users_come_back(client: redis.Redis, valkey: str, broker: FakeBroker, tmp_path) -> None:
    """Catches users lost with the worker that had claimed them."""
    write_items(client, ITEMS)
    write_events(client, "u", ["i0", "i1"])
    dead = make_resources(valkey, broker, tmp_path, lease_s=1)
    assert len(user_refresh(dead)._queue.lease(10, 1)) == 1  # and then nothing more is heard of it
    lane = user_refresh(dead)
    assert await lane.refresh_once() == 0
    await asyncio.sleep(1.1)
    assert await lane.refresh_once() == 1
    assert [one.user_id for one in published(broker)] == ["u"]
    await dead.close()


async def test_a_claim_is_completed_only_after_its_features_are_confirmed(
    client: redis.Redis, resources: Resources, broker: FakeBroker
) -> None:
    """Catches a user who counts as fresh while the features are lost."""
    write_items(client, ITEMS)
    write_events(client, "u", ["i0", "i1"])
    producer = resources.producer
    assert isinstance(producer, FakeProducer)
    producer.failures.append(DeliveryFailed("away"))
    producer.hold()
    lane = user_refresh(resources)
    task = asyncio.create_task(lane.refresh_once())
    await asyncio.sleep(1.0)
    assert not task.done()
    leased = Keys(resources.settings.key_prefix).leased("v1")
    assert client.zcard(leased) == 1
    producer.confirm()
    assert await asyncio.wait_for(task, 5) == 1
    assert client.zcard(leased) == 0
    assert len(published(broker)) == 1


async def test_a_stop_in_the_middle_gives_the_users_back(
    client: redis.Redis, resources: Resources, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a shutdown that hangs on a broker that is away, or that keeps users until their lease ends."""
    monkeypatch.setattr("streams.lanes.user_refresh._DRAIN_S", 0.2)
    write_items(client, ITEMS)
    write_events(client, "u", ["i0", "i1"])
    producer = resources.producer
    assert isinstance(producer, FakeProducer)
    producer.hold()
    lane = user_refresh(resources)
    await lane.start()
    async with asyncio.timeout(5):
        while not broker.logs[TOPIC]:
            await asyncio.sleep(0.02)
    await asyncio.wait_for(lane.stop(), 5)
    assert lane._queue.size() == 1
    producer.confirm()


async def test_a_checkpoint_is_used_as_soon_as_it_stands_there(
    client: redis.Redis, resources: Resources, broker: FakeBroker
) -> None:
    """Catches a worker that has to be restarted after `freshet train reasoner`."""
    write_items(client, ITEMS)
    lane = user_refresh(resources)
    write_events(client, "u", ["i0", "i1"])
    await lane.refresh_once()
    save(checkpoint(8), resources.checkpoint_dir, lambda folder: resources.aligner.save(folder / ALIGNER))
    write_events(client, "u", ["i2"], NOW_MS + 100)
    await lane.refresh_once()
    assert [one.tier for one in published(broker)] == [UserTier.FALLBACK, UserTier.DIFFUSION]
    assert published(broker)[1].reasoner.startswith("block-diffusion@")


async def test_a_checkpoint_of_another_vector_space_is_refused(
    client: redis.Redis, resources: Resources, broker: FakeBroker
) -> None:
    """Catches users and items of one version in two vector spaces."""
    write_items(client, ITEMS)
    lane = user_refresh(resources)
    assert resources.aligner.revision
    save(checkpoint(8), resources.checkpoint_dir, lambda folder: LinearAligner.random(7, 32, 8).save(folder / ALIGNER))
    write_events(client, "u", ["i0", "i1"])
    await lane.refresh_once()
    assert [one.tier for one in published(broker)] == [UserTier.FALLBACK]


async def test_inference_leaves_the_loop_free(client: redis.Redis, resources: Resources) -> None:
    """Catches torch on the event loop, which the other lanes' heartbeats share."""
    write_items(client, ITEMS)
    write_events(client, "u", ["i0", "i1"])
    lane, release = user_refresh(resources), threading.Event()
    infer = lane._inference.infer
    waited: list[bool] = []

    def slow(histories):
        waited.append(release.wait(5))
        return infer(histories)

    lane._inference.infer = slow  # type: ignore[method-assign]
    task = asyncio.create_task(lane.refresh_once())
    await asyncio.sleep(0.3)
    release.set()
    await task
    assert waited == [True]


async def test_a_bug_is_told(resources: Resources, client: redis.Redis) -> None:
    """Catches a timer that dies in silence."""
    write_items(client, ITEMS)
    lane = user_refresh(resources)

    def broken() -> int:
        raise ZeroDivisionError

    lane._inference.catalogue.sync = broken  # type: ignore[method-assign]
    await lane.start()
    assert isinstance(await asyncio.wait_for(lane.wait_failed(), 5), ZeroDivisionError)
    await lane.stop()


async def test_a_batch_too_large_for_its_lease_is_made_smaller(
    client: redis.Redis, valkey: str, broker: FakeBroker, tmp_path
) -> None:
    """Catches a slow machine that claims the same users again and again, and refreshes none of them ever."""
    resources = make_resources(valkey, broker, tmp_path, lease_s=1, refresh_batch=8)
    write_items(client, ITEMS)
    users = [f"u{n}" for n in range(8)]
    for user in users:
        write_events(client, user, ["i0", "i1"])
    lane = user_refresh(resources)
    await asyncio.to_thread(lane._inference.reasoner.refresher)
    infer = lane._inference.infer

    def slow(histories):
        if len(histories) > 2:
            time.sleep(1.3)
        return infer(histories)

    lane._inference.infer = slow  # type: ignore[method-assign]
    await lane.start()
    deadline = time.monotonic() + 20
    while len({one.user_id for one in published(broker)}) < 8 and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    await lane.stop()
    assert {one.user_id for one in published(broker)} == set(users)
