"""A replay into a version that fills in the shadow: bounded, resumable, and nothing written without --execute."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from cli import main
from freshet.records import Item, ItemFeatures, UserEvent
from schemas.codec import Codec
from store.histories import HistoryBatch, HistoryEvent, HistoryStore
from store.refresh_queue import RefreshQueue
from store.versions import Versions
from streams.jobs.replay.jobs import Job, Jobs, new_job
from streams.jobs.replay.plan import make_plan
from streams.jobs.replay.replayer import Replayer
from streams.jobs.replay.request import Request
from streams.kafka.topics import Topics
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.support.fakes_encoder import FakeEncoder
from tests.support.lane_tools import make_topics, read_all, send_all

REPOSITORY = Path(__file__).parents[4]
ITEMS, USERS = 400, 30


class World:
    """Items and events of the past, version v1 active and v2 empty."""

    def __init__(self, kafka: str, valkey: str, prefix: str, home: Path) -> None:
        self.environment = {
            "FRESHET_KAFKA": kafka,
            "FRESHET_REDIS": valkey,
            "FRESHET_TOPIC_PREFIX": prefix,
            "FRESHET_HOME": str(home),
            "FRESHET_VERSION": "v2",
        }
        self.settings = Settings.load(self.environment)
        self.topics: Topics = make_topics(self.settings)
        make_topics(Settings.load({**self.environment, "FRESHET_VERSION": "v1"}))
        self.client: Any = redis.Redis.from_url(valkey)
        versions = Versions(self.client)
        for version in ("v1", "v2"):
            versions.create(version)
        versions.activate("v1")
        self.jobs = Jobs(self.client, "f")
        codec, now = Codec(), time.time_ns() // 1_000_000
        items = [Item(f"i{n}", now, f"Thing number {n}") for n in range(ITEMS)]
        send_all(self.settings, self.topics.items, [(i.item_id.encode(), codec.encode(i)) for i in items])
        events = [UserEvent(f"u{n % USERS}", f"i{n % ITEMS}", "view", now + n) for n in range(90)]
        send_all(self.settings, self.topics.user_events, [(e.user_id.encode(), codec.encode(e)) for e in events])

    def command(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["replay", *arguments], env=self.environment)

    def job(self, **request: Any) -> Job:
        plan = make_plan(self.settings, Request("v2", **request), frozenset(), HistoryStore(self.client, "f"))
        job = new_job(plan, "test", time.time_ns() // 1_000_000)
        self.jobs.save(job)
        return job

    def run(self, job: Job, *, keys: frozenset[bytes] = frozenset(), stop_after: int = 0) -> Job:
        """One attempt in this process; `stop_after` records it is told to stop, as Ctrl-C does."""

        async def work() -> Job:
            resources, stop = Resources(self.settings, member=True, encoder=FakeEncoder()), asyncio.Event()

            def progress(_: Any, behind: int) -> None:
                if stop_after and behind >= stop_after:
                    stop.set()

            try:
                return await Replayer(resources, job, self.jobs, keys, progress).run(stop)
            finally:
                await resources.close()

        return asyncio.run(work())

    def published(self) -> list[str]:
        codec = Codec()
        records = read_all(self.settings.kafka.servers, self.topics.item_features)
        return [codec.decode(ItemFeatures, record.value or b"").item_id for record in records]


@pytest.fixture
def world(kafka: str, valkey: str, topic_prefix: str, tmp_path: Path) -> Any:
    made = World(kafka, valkey, topic_prefix, tmp_path)
    yield made
    made.client.close()


def everything() -> set[str]:
    return {f"i{n}" for n in range(ITEMS)}


def test_a_dry_run_tells_and_changes_nothing(world: World) -> None:
    """Catches a plan that is wrong, or one that is carried out unasked."""
    before = sorted(world.client.keys("*"))
    done = world.command("--into", "v2", "--topic", "items", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["into"], answer["active"], answer["execute"]) == ("v2", "v1", False)
    assert str(ITEMS) in json.dumps(answer)
    assert sorted(world.client.keys("*")) == before
    assert world.published() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--into", "v1", "--execute"), "--force"),
        (("--into", "v9", "--execute"), "versions create v9"),
        (("--resume", "none"), "--jobs"),
    ],
)
def test_what_would_do_harm_is_refused(world: World, arguments: tuple[str, ...], said: str) -> None:
    """Catches a replay over what rankers read, or into a version that nobody made."""
    done = world.command(*arguments)
    assert done.exit_code == 1
    assert said in done.output
    assert world.published() == []


def test_every_item_is_there_afterwards(world: World) -> None:
    """Catches an item left out at an end of a range, and a job that never ends or is done twice."""
    ended = world.run(world.job(topic="items"))
    assert ended.state == "done"
    assert set(world.published()) == everything()
    assert world.jobs.get(ended.id).state == "done"
    with pytest.raises(Exception, match="is done"):
        world.jobs.take_over(ended.id, "other", ended.saved_ms)


def test_a_stopped_replay_goes_on_where_it_stood(world: World) -> None:
    """Catches records lost between two attempts, and a second attempt that begins from the start."""
    first = world.run(world.job(topic="items", rate=150.0), stop_after=60)
    assert first.state == "stopped"
    some = world.published()
    assert 60 <= len(some) < ITEMS
    second = world.run(world.jobs.take_over(first.id, "other", time.time_ns() // 1_000_000))
    assert second.state == "done"
    every = world.published()
    assert set(every) == everything()
    assert len(every) < ITEMS + len(some)


def test_a_killed_replay_loses_nothing(world: World, tmp_path: Path) -> None:
    """Catches an offset kept before its record was confirmed."""
    job = world.job(topic="items", rate=100.0)
    code = (
        "import asyncio, sys\n"
        "from streams.settings import Settings\n"
        "from streams.wiring.resources import Resources\n"
        "from streams.jobs.replay.jobs import Jobs\n"
        "from streams.jobs.replay.replayer import Replayer\n"
        "from tests.support.fakes_encoder import FakeEncoder\n"
        "async def work():\n"
        "    resources = Resources(Settings.load(), member=True, encoder=FakeEncoder())\n"
        "    jobs = Jobs(resources.redis, 'f')\n"
        "    await Replayer(resources, jobs.get(sys.argv[1]), jobs, frozenset()).run(asyncio.Event())\n"
        "asyncio.run(work())\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, job.id], env={**os.environ, **world.environment}, cwd=REPOSITORY
    )
    deadline = time.monotonic() + 60
    while not any(world.jobs.get(job.id).positions.values()):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    left = world.jobs.get(job.id)
    assert left.state == "running"
    ended = world.run(world.jobs.take_over(job.id, "other", left.saved_ms + 3_600_000))
    assert ended.state == "done"
    assert set(world.published()) == everything()


def test_only_the_keys_that_are_named(world: World) -> None:
    """Catches a list of ids that is read and not used."""
    job = world.job(topic="items")
    world.run(job, keys=frozenset({b"i3", b"i77", b"none"}))
    assert sorted(world.published()) == ["i3", "i77"]


def test_a_window_ends_with_the_newest_of_what_it_touched(world: World) -> None:
    """Catches an old vector as the last word of a compacted topic, where a live lane has published the newer before."""
    time.sleep(0.05)
    end_ms = time.time_ns() // 1_000_000
    time.sleep(0.05)
    codec = Codec()
    newer = [Item(f"i{n}", end_ms + 1, f"Renamed number {n}") for n in (3, 77)] + [Item("late", end_ms, "Too late")]
    send_all(world.settings, world.topics.items, [(i.item_id.encode(), codec.encode(i)) for i in newer])
    assert world.run(world.job(topic="items", to_ms=end_ms)).state == "done"
    last: dict[str, int] = {}
    for record in read_all(world.settings.kafka.servers, world.topics.item_features):
        one = codec.decode(ItemFeatures, record.value or b"")
        last[one.item_id] = one.event_time
    assert set(last) == everything()
    assert {one for one, event_time in last.items() if event_time == end_ms + 1} == {"i3", "i77"}


def test_users_of_the_log_become_due_in_this_version_alone(world: World) -> None:
    """Catches users without new events that a new version never gets."""
    events = [HistoryEvent(f"u{n}", f"i{n}", "view", 1_000 + n, offset=n) for n in range(USERS)]
    HistoryStore(world.client, "f").append(HistoryBatch.of(events))
    ended = world.run(world.job(topic="user-events"))
    assert ended.state == "done"
    assert [RefreshQueue(world.client, version).state().due for version in ("v1", "v2")] == [0, USERS]
