"""Two user-refresh workers as processes, one killed in the middle of a batch, on real Kafka and Valkey."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis

from freshet.layout import Keys
from freshet.records import ItemFeatures, ItemTier, UserFeatures
from local.stack.process import ChildProcess, log_tail
from schemas.codec import Codec
from store.feature_writer import FeatureWriter
from store.histories import HistoryBatch, HistoryEvent, HistoryStore, QueuedVersions
from store.refresh_queue import QueueState, RefreshQueue
from streams.settings import Settings
from tests.support.lane_tools import make_topics, read_all, until

NOW = 1_700_000_000_000
REPOSITORY = Path(__file__).parents[3]
USERS = [f"u{n}" for n in range(3_000)]
LEASED = Keys("f").leased("v1")
DOOMED_LEASE_S, OTHER_LEASE_S = 8, 600
"""So far apart that a lease shows by its end whose it is."""


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


def worker(settings: Settings, tmp_path: Path, name: str, lease_s: int) -> ChildProcess:
    environment = {
        "FRESHET_KAFKA": settings.kafka.servers,
        "FRESHET_REDIS": settings.redis.url,
        "FRESHET_TOPIC_PREFIX": settings.topic_prefix,
        "FRESHET_HOME": str(tmp_path),
        "FRESHET_VECTORS__DIMS": "8",
        "FRESHET_REFRESH_BATCH": "50",
        "FRESHET_LEASE_S": str(lease_s),
    }
    child = ChildProcess(
        name,
        [sys.executable, "-m", "tests.support.lane_process", "user-refresh"],
        log=tmp_path / f"{name}.log",
        env={**os.environ, **environment},
        cwd=REPOSITORY,
        grace_s=10,
    )
    child.start()
    return child


def doomed_leases(client: redis.Redis) -> set[str]:
    horizon_ms = 1_000 * (time.time() + (DOOMED_LEASE_S + OTHER_LEASE_S) / 2)
    return {user.decode() for user in client.zrangebyscore(LEASED, "-inf", horizon_ms)}


def stopped_in_a_batch(client: redis.Redis, child: ChildProcess) -> set[str]:
    """Stop a worker at a moment at which it holds leases; answers whose."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if doomed_leases(client):
            os.kill(child.pid, signal.SIGSTOP)
            if held := doomed_leases(client):
                return held
            os.kill(child.pid, signal.SIGCONT)  # it had just completed its batch
        time.sleep(0.002)
    raise AssertionError(f"the worker never held a lease:\n{log_tail(child.log)}")


async def test_a_killed_worker_costs_its_batch_one_refresh_more_and_nobody_is_forgotten(
    kafka: str, valkey: str, topic_prefix: str, client: redis.Redis, tmp_path: Path
) -> None:
    """Catches users lost with a worker, refreshed by both, or refreshed again and again after the crash."""
    settings = Settings.load({}, kafka=kafka, redis=valkey, topic_prefix=topic_prefix, dims=8)
    topics = await asyncio.to_thread(make_topics, settings)
    vectors = np.random.default_rng(0).standard_normal((40, 8)).astype("<f2")
    FeatureWriter(client, ttl_s=3600).put_items(
        [ItemFeatures(f"i{n}", "v1", ItemTier.TEXT, NOW, NOW, 8, v.tobytes()) for n, v in enumerate(vectors)]
    )
    events = [HistoryEvent(user, f"i{(n + m) % 40}", "view", NOW + m) for n, user in enumerate(USERS) for m in range(3)]
    HistoryStore(client).append(HistoryBatch.of(events), QueuedVersions(["v1"]))
    due = RefreshQueue(client, "v1")
    assert due.state().due == len(USERS)
    doomed = worker(settings, tmp_path, "doomed", DOOMED_LEASE_S)
    other = worker(settings, tmp_path, "other", OTHER_LEASE_S)
    try:
        orphans = await asyncio.to_thread(stopped_in_a_batch, client, doomed)
        os.kill(doomed.pid, signal.SIGKILL)
        await until(lambda: due.size() + due.leased() == 0, "everybody to be refreshed", timeout_s=120)
    finally:
        await asyncio.to_thread(doomed.stop)
        await asyncio.to_thread(other.stop)
    codec = Codec()
    refreshes = Counter(
        codec.decode(UserFeatures, record.value or b"").user_id for record in read_all(kafka, topics.user_features)
    )
    assert refreshes.keys() == set(USERS)
    assert 0 < len(orphans) <= 50
    twice = {user for user, count in refreshes.items() if count > 1}
    assert twice <= orphans
    assert max(refreshes.values()) <= 2
    assert due.state() == QueueState(0, 0, 0, 0.0)
