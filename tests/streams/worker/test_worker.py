"""The worker process: killed in the middle of a window, stopped, and failing, on real Kafka and Valkey."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result

from cli import main
from freshet.records import Item, ItemFeatures, ItemTier, UserEvent
from local.stack.process import ChildProcess
from schemas.codec import Codec
from store.versions import Versions
from streams.kafka.topics import Topics
from streams.settings import Settings
from tests.support.lane_tools import make_topics, read_all, send_all, until

NOW = 1_700_000_000_000
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def environment(kafka: str, valkey: str, topic_prefix: str, tmp_path: Path) -> dict[str, str]:
    return {
        "FRESHET_KAFKA": kafka,
        "FRESHET_REDIS": valkey,
        "FRESHET_TOPIC_PREFIX": topic_prefix,
        "FRESHET_HOME": str(tmp_path),
        "FRESHET_LLM__CONCURRENCY": "4",
    }


def start(environment: dict[str, str], tmp_path: Path, *arguments: str) -> ChildProcess:
    child = ChildProcess(
        "worker",
        [sys.executable, "-m", *arguments],
        log=tmp_path / "worker.log",
        env={**os.environ, **environment},
        cwd=REPOSITORY,
        grace_s=10,
    )
    child.start()
    return child


def features(settings: Settings, topics: Topics) -> dict[str, set[int]]:
    """Tiers published per item."""
    codec, found = Codec(), dict[str, set[int]]()
    for record in read_all(settings.kafka.servers, topics.item_features):
        one = codec.decode(ItemFeatures, record.value or b"")
        found.setdefault(one.item_id, set()).add(one.tier)
    return found


async def test_a_worker_killed_in_the_middle_of_its_windows_loses_nothing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Catches an acknowledgement ahead of its result: after kill -9 and a restart every item is at both tiers, and
    every bad record in the dead letters."""
    settings = Settings.load(environment)
    topics = await asyncio.to_thread(make_topics, settings)
    codec, total = Codec(), 400
    items = [Item(f"i{n}", NOW + n, f"Thing number {n}") for n in range(total)]
    records: list[tuple[bytes | None, bytes | None]] = [(i.item_id.encode(), codec.encode(i)) for i in items]
    records[::100] = [(b"bad%d" % n, b"garbage") for n in range(4)]
    await asyncio.to_thread(send_all, settings, topics.items, records)
    wanted = {item.item_id for n, item in enumerate(items) if n % 100}

    def known() -> int:
        return len(read_all(settings.kafka.servers, topics.item_knowledge))

    arguments = ("tests.support.lane_process", "item-text,item-distill")
    for kill_after in (20, 120):
        child = await asyncio.to_thread(start, environment, tmp_path, *arguments)
        await until(lambda least=kill_after: known() >= least, "knowledge", 60)  # type: ignore[misc]
        os.kill(child.pid, signal.SIGKILL)
        await asyncio.to_thread(child.stop)
    child = await asyncio.to_thread(start, environment, tmp_path, *arguments)
    both = {ItemTier.TEXT, ItemTier.KNOWLEDGE}
    await until(
        lambda: {i for i, tiers in features(settings, topics).items() if tiers == both} == wanted, "both tiers", 120
    )
    await until(
        lambda: len({r.offset for r in read_all(settings.kafka.servers, f"{topics.items}.dlq")}) >= 4, "dead letters"
    )
    os.kill(child.pid, signal.SIGTERM)
    assert await asyncio.to_thread(exit_code, child) == 0, (tmp_path / "worker.log").read_text()[-3000:]
    dead_letters = await asyncio.to_thread(read_all, settings.kafka.servers, f"{topics.items}.dlq")
    assert {record.key for record in dead_letters} == {b"bad0", b"bad1", b"bad2", b"bad3"}


def exit_code(child: ChildProcess, timeout_s: float = 30) -> int | None:
    deadline = time.monotonic() + timeout_s
    while child.running and time.monotonic() < deadline:
        time.sleep(0.05)
    return child.returncode()


def command(environment: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments],
        env={**os.environ, **environment},
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
    )


def test_a_worker_without_its_topics_says_what_to_do(environment: dict[str, str]) -> None:
    """Catches a worker that waits in silence; exit code 1, not 2: no setting is wrong."""
    with command(environment, "worker", "--lanes", "sink") as process:
        _, log = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"freshet topics create" in log


def test_a_worker_of_other_components_ends_and_says_which(environment: dict[str, str], tmp_path: Path) -> None:
    """Catches vectors of two encoders in one version: the log names the component, both values and the way out."""
    settings = Settings.load(environment)
    make_topics(settings)
    with redis.Redis.from_url(settings.redis.url) as client:
        Versions(client).create("v1", {"encoder": "mini@2"})
    child = start(environment, tmp_path, "tests.support.lane_process", "item-text,sink")
    assert exit_code(child, 60) == 1
    log = (tmp_path / "worker.log").read_text()
    for word in ("worker failed", "encoder", "mini@2", "fake@1", "freshet versions create", "FRESHET_VERSION"):
        assert word in log
    assert "lane runs" not in log


async def test_a_version_is_deleted_under_its_worker_only_by_force_and_stays_deleted(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Catches a worker that outlives its version, and features it writes behind the clean-up."""
    settings = Settings.load(environment)
    topics = await asyncio.to_thread(make_topics, settings)
    with redis.Redis.from_url(settings.redis.url) as client:
        versions = Versions(client)
        versions.activate("v0")
        child = await asyncio.to_thread(start, environment, tmp_path, "tests.support.lane_process", "item-text,sink")
        items = [Item(f"i{n}", NOW + n, f"Thing number {n}") for n in range(300)]
        codec = Codec()
        records: list[tuple[bytes | None, bytes | None]] = [(i.item_id.encode(), codec.encode(i)) for i in items]
        await asyncio.to_thread(send_all, settings, topics.items, records[:200])
        await until(lambda: client.zcard("f:v1:items") == 200, "200 items", 60)
        refused = await asyncio.to_thread(
            CliRunner().invoke, main, ["versions", "gc", "v1", "--execute"], env=environment
        )
        assert refused.exit_code == 1
        assert "stop them" in refused.output
        await asyncio.to_thread(send_all, settings, topics.items, records[200:])
        gone = await asyncio.to_thread(
            CliRunner().invoke, main, ["versions", "gc", "v1", "--execute", "--force"], env=environment
        )
        assert gone.exit_code == 0, gone.output
        assert await asyncio.to_thread(exit_code, child) == 1
        assert "is being deleted" in (tmp_path / "worker.log").read_text()
        assert client.keys("f:v1:*") == []
        assert versions.names() == ["v0"]


async def test_a_version_fills_beside_the_active_one_and_takes_over(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Catches real workers whose manifest is never whole, a shadow that gets half of the traffic, and an activation
    that is refused for ever or comes too early."""
    environment = {**environment, "FRESHET_REFRESH_INTERVAL_S": "0"}
    settings = Settings.load(environment)
    topics = await asyncio.to_thread(make_topics, settings)
    await asyncio.to_thread(make_topics, Settings.load({**environment, "FRESHET_VERSION": "v2"}))
    codec, now = Codec(), time.time_ns() // 1_000_000
    items = [(f"i{n}".encode(), codec.encode(Item(f"i{n}", now, f"Thing number {n}"))) for n in range(40)]
    events = [
        (f"u{n % 20}".encode(), codec.encode(UserEvent(f"u{n % 20}", f"i{n % 40}", "view", now + n)))
        for n in range(120)
    ]

    def versions(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["versions", *arguments, "--json"], env=environment)

    def worker(version: str) -> ChildProcess:
        folder = tmp_path / version
        folder.mkdir()
        lanes = ("tests.support.lane_process", "item-text,user-events,user-refresh,sink")
        return start({**environment, "FRESHET_VERSION": version}, folder, *lanes)

    def fit() -> bool:
        return json.loads(versions("status", "v2").stdout or "{}").get("reasons") == []

    first = await asyncio.to_thread(worker, "v1")
    await asyncio.to_thread(send_all, settings, topics.items, items[:20])
    await asyncio.to_thread(send_all, settings, topics.user_events, events[:60])
    await until(lambda: versions("status", "v1").exit_code == 0, "v1", 60)
    early = await asyncio.to_thread(versions, "create", "v2")
    assert early.exit_code == 0, early.output
    with redis.Redis.from_url(settings.redis.url) as client:
        await until(lambda: len(client.keys("f:v1:u:*")) == 20, "20 users in v1", 60)
        refused = await asyncio.to_thread(versions, "activate", "v2")
        assert refused.exit_code == 1
        second = await asyncio.to_thread(worker, "v2")
        await until(lambda: "worker runs" in (tmp_path / "v2" / "worker.log").read_text(), "the second worker", 60)
        await asyncio.to_thread(send_all, settings, topics.items, items[20:])
        await asyncio.to_thread(send_all, settings, topics.user_events, events[60:])
        for version in ("v1", "v2"):
            await until(lambda v=version: client.zcard(f"f:{v}:items") == 40, "40 items", 60)  # type: ignore[misc]
        await until(fit, "v2 to be fit", 60)
        done = await asyncio.to_thread(versions, "activate", "v2")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["coverage"]["users"]["covered"] == 20
        assert Versions(client).active() == "v2"
        assert (await asyncio.to_thread(versions, "rollback")).exit_code == 0
        assert Versions(client).active() == "v1"
    for child in (first, second):
        os.kill(child.pid, signal.SIGTERM)
    for child in (first, second):
        assert await asyncio.to_thread(exit_code, child) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_worker_well(environment: dict[str, str], number: int) -> None:
    """Catches a worker that has to be killed, or that says it failed."""
    settings = Settings.load(environment)
    make_topics(settings)
    with command(environment, "worker", "--lanes", "sink,user-events") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"worker runs" in line:
                break
        began = time.monotonic()
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == 0, rest.decode()
    assert time.monotonic() - began < 15


def test_an_unknown_lane_is_named(environment: dict[str, str]) -> None:
    """Catches a typo that runs nothing, or everything."""
    result = CliRunner().invoke(main, ["worker", "--lanes", "item-txt"], env=environment)
    assert result.exit_code == 2
    assert "item-txt" in result.output
    assert "item-text" in result.output


@pytest.mark.parametrize(
    ("setting", "value"), [("FRESHET_LLM", ""), ("FRESHET_KAFKA", ""), ("FRESHET_LLM__CONCURRENCY", "zero")]
)
def test_a_wrong_setting_is_named(environment: dict[str, str], setting: str, value: str) -> None:
    """Catches a traceback, or a worker that starts and can never work."""
    lanes = ["--lanes", "item-distill"] if setting == "FRESHET_LLM" else []  # the others ask no LLM
    result = CliRunner().invoke(main, ["worker", *lanes], env={**environment, setting: value})
    assert result.exit_code == 2
    assert setting in result.output
