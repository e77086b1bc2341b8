"""Liveness and readiness over HTTP, heartbeats, lag in seconds, and the detector of lanes that stand still."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from freshet.records import UserEvent
from local.stack.process import free_port
from schemas.codec import Codec
from streams.health import EVENT_LOOP, Health, HealthServer
from streams.kafka.consumer import Subscription
from streams.kafka.lag import PartitionLag
from streams.kafka.topics import Topics
from streams.metrics import Metrics
from streams.settings import Settings
from streams.wiring.resources import Resources
from streams.worker.stall_detector import LagClock, StallDetector, StallWatcher, beat, stacks
from streams.worker.worker import run
from tests.support.fakes_encoder import FakeEncoder
from tests.support.lane_tools import make_topics, send_all, until


class Ticks:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ask(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def served() -> Iterator[tuple[Health, Ticks, int]]:
    ticks, metrics = Ticks(), Metrics()
    health = Health(metrics, stall_s=10, monotonic=ticks)
    server = HealthServer(health, metrics, port=0)
    yield health, ticks, server.port
    server.close()


def test_liveness_follows_the_beats_and_readiness_the_dependencies(served: tuple[Health, Ticks, int]) -> None:
    """Catches a hung worker that is never restarted, and one that is restarted because Redis is away."""
    health, ticks, port = served
    health.beat("lane sink")
    assert ask(port, "/livez") == (200, '{"ok": true, "problems": []}')
    assert ask(port, "/readyz")[0] == 503
    health.started = True
    assert ask(port, "/readyz")[0] == 200
    health.probe("Redis", lambda: "ConnectionError")
    code, body = ask(port, "/readyz")
    assert (code, json.loads(body)["problems"]) == (503, ["Redis: ConnectionError"])
    assert ask(port, "/livez")[0] == 200
    ticks.now = 11
    code, body = ask(port, "/livez")
    assert (code, json.loads(body)["problems"]) == (503, ["lane sink has made no progress for 11 s"])
    health.end("lane sink")
    assert ask(port, "/livez")[0] == 200
    assert "freshet_lag_records" in ask(port, "/metrics")[1]
    assert ask(port, "/else")[0] == 404


async def test_a_blocked_event_loop_shows_although_it_is_blocked(served: tuple[Health, Ticks, int]) -> None:
    """Catches a health check that hangs with what it checks."""
    health, ticks, port = served
    beating = asyncio.create_task(beat(health))
    await asyncio.sleep(0.05)
    found: list[int] = []

    def look() -> None:
        ticks.now = 60
        found.append(ask(port, "/livez")[0])

    thread = threading.Thread(target=look)
    thread.start()
    time.sleep(0.5)  # the loop is blocked meanwhile
    thread.join()
    assert found == [503]
    beating.cancel()
    await asyncio.wait([beating])
    assert EVENT_LOOP not in health.hung()


def test_lag_in_seconds_is_the_age_of_the_oldest_unacknowledged() -> None:
    """Catches an idle topic that is ever later, and a busy lane that is on time but never at the end."""
    clock = LagClock()
    assert clock.seconds(0, 10, 10) == 0
    assert clock.seconds(100, 10, 10) == 0
    assert clock.seconds(105, 10, 20) == 0
    assert clock.seconds(110, 10, 30) == 5
    assert clock.seconds(115, 20, 40) == 5, "what is oldest now was first seen at 110"
    assert clock.seconds(120, 40, 40) == 0
    assert clock.seconds(125, 40, 41) == 0
    assert clock.seconds(185, 40, 99) == 60


def test_a_lane_stands_still_only_where_it_should_move() -> None:
    """Catches an alarm about idle lanes and about lanes that wait for Redis, and none about one that hangs."""
    detector = StallDetector(10)
    for now in range(0, 40, 5):
        assert not detector.stalled("idle", now, 7, 0, waiting=False)
        assert not detector.stalled("waits", now, 7, 50, waiting=True)
        assert not detector.stalled("moves", now, 7 + now, 50, waiting=False)
        assert detector.stalled("hangs", now, 7, 50, waiting=False) == (now > 10)
    assert not detector.stalled("hangs", 45, 8, 49, waiting=False)


class FakeLag:
    def __init__(self) -> None:
        self.rows = {"g": [PartitionLag("items", 0, 5, 9), PartitionLag("items", 1, 3, 3)]}

    def partitions(self) -> dict[str, list[PartitionLag]]:
        return self.rows

    def close(self) -> None:
        pass


def test_what_stands_still_is_reported_once_with_all_stacks(caplog: pytest.LogCaptureFixture) -> None:
    """Catches a stall that nobody can explain afterwards, and a log that fills with the same stacks."""
    metrics = Metrics()
    health = Health(metrics, stall_s=10)
    watch = StallWatcher(
        {"bootstrap.servers": "127.0.0.1:1"}, [Subscription("item-text", "g", ("items",))], metrics, health
    )
    watch._lag.close()
    watch._lag = FakeLag()  # type: ignore[assignment]
    with caplog.at_level(logging.ERROR):
        for now in (0, 5, 20, 25):
            watch.look(now)
    labels = {"lane": "item-text", "topic": "items", "partition": "0"}
    assert metrics.lag_records.labels(**labels)._value.get() == 4
    assert metrics.lag_seconds.labels(**labels)._value.get() == 25
    assert metrics.stalled.labels(lane="item-text")._value.get() == 1
    [reported] = caplog.records
    assert "test_what_stands_still" in reported.stacks  # type: ignore[attr-defined]
    assert "thread MainThread" in stacks()


@pytest.mark.timeout(120)
async def test_a_worker_tells_of_itself(kafka: str, valkey: str, topic_prefix: str) -> None:
    """Catches a port that is not served, lag that is not set, and a worker that is never ready, or ready too long."""
    port = free_port()
    settings = Settings.load(
        {}, kafka=kafka, redis=valkey, topic_prefix=topic_prefix, partitions=2, metrics_port=port, stall_s=5
    )
    await asyncio.to_thread(make_topics, settings)
    now = time.time_ns() // 1_000_000
    events: list[tuple[Any, Any]] = [(b"u", Codec().encode(UserEvent("u", f"i{n}", "view", now))) for n in range(50)]
    await asyncio.to_thread(send_all, settings, Topics(settings).user_events, events)
    resources, stop = Resources(settings, member=True, encoder=FakeEncoder()), asyncio.Event()
    working = asyncio.create_task(run(["user-events", "sink"], resources, stop=stop))
    await until(lambda: answers(port, "/readyz") == 200, "the worker to be ready", 60)
    await until(lambda: 'freshet_lag_records{lane="user-events"' in ask(port, "/metrics")[1], "the lag", 30)
    lines = [line for line in ask(port, "/metrics")[1].splitlines() if line.startswith("freshet_lag")]
    assert {float(line.split()[-1]) for line in lines} == {0.0}
    assert answers(port, "/livez") == 200
    stop.set()
    assert await working == 0
    assert answers(port, "/livez") == 0


def answers(port: int, path: str) -> int:
    try:
        return ask(port, path)[0]
    except OSError:
        return 0
