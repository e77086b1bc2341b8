"""`freshet versions`: what each command does to Redis and Kafka, says, and ends with."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from cli import main
from store.versions import Versions
from streams.jobs.version_topics import delete, own_groups, own_topics
from streams.kafka.topics import Topics, existing
from streams.settings import Settings
from streams.versions.components import REQUIRED
from tests.store.test_coverage import now_ms, write_items, write_users
from tests.support.lane_tools import committed, make_topics, until

Run = Callable[..., Result]
WHOLE = dict.fromkeys(REQUIRED, "x") | {"dims": "8", "dtype": "float16"}
ITEMS, USERS = [f"i{n}" for n in range(200)], [f"u{n}" for n in range(100)]


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


@pytest.fixture
def run(valkey: str) -> Run:
    """One command, as typed."""

    def run(*arguments: str, **environment: str) -> Result:
        env = {"FRESHET_REDIS": valkey, "COLUMNS": "200", **environment}
        return CliRunner().invoke(main, ["versions", *arguments], env=env)

    return run


def said(result: Result, code: int = 0) -> dict[str, Any]:
    assert result.exit_code == code, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def fill(client: redis.Redis, version: str, *, items: int = 200, users: int = 100, **components: str) -> None:
    write_items(client, version, ITEMS[:items], event_time=now_ms())
    write_users(client, version, USERS[:users], event_time=now_ms())
    Versions(client).create(version, {**WHOLE, **components})


@pytest.fixture
def two(client: redis.Redis) -> Versions:
    """v1 active, v2 whole in its shadow."""
    fill(client, "v1")
    versions = Versions(client)
    versions.activate("v1")
    time.sleep(0.003)
    fill(client, "v2", encoder="y")
    return versions


def test_the_way_of_a_version(run: Run, client: redis.Redis, two: Versions) -> None:
    """Catches a step that does not lead to the next: list, create, status, activate, roll back, delete."""
    listed = said(run("list", "--json"))
    assert {one["version"]: one["state"] for one in listed["versions"]} == {"v1": "active", "v2": "shadow"}
    assert said(run("create", "v3", "--json")) == {"version": "v3", "created": True, "topics_created": []}
    assert said(run("create", "v3", "--json"))["created"] is False
    assert said(run("status", "v2", "--json"))["reasons"] == []
    done = said(run("activate", "v2", "--json"))
    assert (done["activated"], done["before"], two.active()) == (True, "v1", "v2")
    assert said(run("rollback", "--json")) == {"active": "v1", "previous": "v2", "workers": []}
    assert said(run("rollback", "--json")) == {"active": "v2", "previous": "v1", "workers": []}
    fill(client, "v3")
    said(run("activate", "v3", "--json"))
    assert two.overview().state("v1") == "old"
    gone = said(run("gc", "--execute", "--force", "--json"))
    assert [one["version"] for one in gone["versions"]] == ["v1"]
    assert client.keys("f:v1:*") == []
    assert two.names() == ["v2", "v3"]


def test_people_are_told_the_same_and_what_to_do_next(run: Run, two: Versions) -> None:
    """Catches a table that breaks, and a command that leaves an operator at 3 a.m. without the next one."""
    two.beat("v2", "host:1", {"lanes": ["sink"]})
    for arguments, words in (
        (["list"], ["v1", "active", "v2", "shadow", "Next: freshet versions status v2"]),
        (["create", "v3"], ["Created v3", "FRESHET_VERSION=v3 freshet worker", "freshet replay --into v3"]),
        (["status", "v2"], ["encoder", "host:1 (sink)", "100.00%", "Next: freshet versions activate v2"]),
        (["status"], ["v1", "active", "Next: freshet features get"]),
        (["activate", "v1"], ["v1 is active already"]),
        (["gc", "v2"], ["would delete v2", "200 items", "host:1 writes it", "gc v2 --execute"]),
        (["activate", "v2"], ["Rankers read v2, before v1", "rollback"]),
        (["rollback"], ["Rankers read v1 again", "v2", "no worker writes v1", "FRESHET_VERSION=v1"]),
        (["gc"], ["Nothing to delete", "kept v3"]),
    ):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        for word in words:
            assert word in result.output, (arguments, result.output)


def test_a_version_with_gaps_is_refused_until_forced(run: Run, client: redis.Redis) -> None:
    """Catches rankers that lose a tenth of their items to an early activation."""
    fill(client, "v1")
    Versions(client).activate("v1")
    fill(client, "v2", items=180, users=90)
    refused = said(run("activate", "v2", "--json"), code=1)
    assert refused["activated"] is False
    assert [reason.partition(" of ")[0] for reason in refused["reasons"]] == ["it has 180", "it has 90"]
    assert Versions(client).active() == "v1"
    shown = run("activate", "v2")
    assert shown.exit_code == 1
    assert "90.00%" in shown.output
    assert "rankers go on with v1" in shown.output
    eased = said(run("activate", "v2", "--least-items", "0.9", "--least-users", "0.9", "--json"))
    assert (eased["activated"], eased["forced"]) == (True, False)
    said(run("rollback", "--json"))
    forced = said(run("activate", "v2", "--force", "--json"))
    assert (forced["activated"], forced["forced"], len(forced["reasons"])) == (True, True, 2)


def test_a_version_of_items_alone_is_no_pair(run: Run, client: redis.Redis, two: Versions) -> None:
    """Catches users of one space and items of another behind one pointer."""
    Versions(client).create("v3", {name: "x" for name in WHOLE if name not in ("reasoner", "schema")})
    write_items(client, "v3", ITEMS)
    write_users(client, "v3", USERS, event_time=now_ms())
    [reason] = said(run("activate", "v3", "--json"), code=1)["reasons"]
    assert "reasoner by the lane user-refresh" in reason
    assert two.active() == "v1"


def test_the_first_activation_needs_no_other_version(run: Run, client: redis.Redis) -> None:
    """Catches an installation that never gets its first version."""
    fill(client, "v1")
    assert said(run("activate", "v1", "--json"))["activated"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["activate", "v9"], 1, ["v9", "known are v1, v2", "freshet versions create v9"]),
        (["status", "v9"], 1, ["v9", "known are"]),
        (["rollback"], 1, ["no previous version"]),
        (["gc", "v9", "--execute"], 1, ["v9", "no version is called so"]),
        (["activate", "a:b"], 2, ["a:b"]),
        (["gc", "a*"], 2, ["a*"]),
        (["create", "v3", "--pin", "encoder"], 2, ["encoder", "COMPONENT=VALUE"]),
        (["create", "v2", "--pin", "encoder=z"], 1, ["encoder", "'z'", "'y'"]),
        (["activate", "v2", "--least-items", "2"], 2, ["least-items"]),
        (["status", "--active-within", "soon"], 2, ["soon", "7d"]),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    run: Run, two: Versions, arguments: list[str], code: int, words: list[str]
) -> None:
    """Catches a traceback, a wrong exit code, and a typo that makes or moves a version."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    for word in words:
        assert word in result.output
    assert "Traceback" not in result.output
    assert (two.active(), two.names()) == ("v1", ["v1", "v2"])


def test_without_redis_it_says_so(run: Run) -> None:
    """Catches a traceback where the address is wrong."""
    result = run("list", FRESHET_REDIS="redis://127.0.0.1:1/0")
    assert result.exit_code == 1
    assert "FRESHET_REDIS" in result.output


def test_a_dry_run_deletes_nothing_and_counts_what_would_go(run: Run, client: redis.Redis, two: Versions) -> None:
    """Catches a look that acts."""
    before = sorted(client.keys("*"))
    [row] = said(run("gc", "v2", "--json"))["versions"]
    assert (row["kinds"]["items"], row["kinds"]["users"]) == (200, 100)
    assert row["keys"] == len(client.keys("f:v2:*"))
    assert sorted(client.keys("*")) == before
    assert two.names() == ["v1", "v2"]


def test_the_active_and_the_previous_stay_by_any_command(run: Run, client: redis.Redis, two: Versions) -> None:
    """Catches the worst command there could be."""
    two.activate("v2")
    before = sorted(client.keys("*"))
    for options in (["--execute"], ["--execute", "--force"], []):
        answer = said(run("gc", "v1", "v2", *options, "--json"), code=1)
        assert all("version" in one["refused"] for one in answer["versions"])
    assert sorted(client.keys("*")) == before


def test_a_version_that_workers_write_stays_without_force(run: Run, two: Versions) -> None:
    """Catches a clean-up under a worker that still fills the version."""
    two.beat("v2", "host:1")
    [row] = said(run("gc", "v2", "--execute", "--json"), code=1)["versions"]
    assert "host:1" in row["refused"]
    assert two.overview().state("v2") == "shadow"


def test_durations_are_read(run: Run, client: redis.Redis) -> None:
    """Catches `7d` that means seven seconds."""
    fill(client, "v1", users=50)
    Versions(client).activate("v1")
    write_users(client, "v1", USERS[50:], event_time=now_ms() - 2 * 3_600_000)
    for within, users in (("1h", 50), ("3h", 100), ("10800", 100), ("90m", 50), ("1d", 100)):
        answer = said(run("status", "--active-within", within, "--json"))
        assert answer["coverage"]["users"]["looked_at"] == users


async def test_a_versions_topics_and_groups_go_with_it(
    run: Run, client: redis.Redis, kafka: str, topic_prefix: str
) -> None:
    """Catches topics nobody lists any more, and a group whose offsets would leave the next version of this name
    empty; and shared topics that go with one version."""
    settings = Settings.load({}, kafka=kafka, topic_prefix=topic_prefix, version="v2")
    broker = {"FRESHET_KAFKA": kafka, "FRESHET_TOPIC_PREFIX": topic_prefix}
    shared = await asyncio.to_thread(make_topics, Settings.load({}, kafka=kafka, topic_prefix=topic_prefix))
    fill(client, "v1")
    Versions(client).activate("v1")
    made = said(run("create", "v2", "--json", **broker))["topics_created"]
    assert (
        set(made)
        == set(own_topics(settings, "v2"))
        == {
            name + dead_letters
            for name in (Topics(settings).item_features, Topics(settings).user_features)
            for dead_letters in ("", ".dlq")
        }
    )
    for group in own_groups(settings, "v2"):
        await asyncio.to_thread(_commit, kafka, group, shared.items)
    [row] = said(run("gc", "v2", "--json", **broker))["versions"]
    assert sorted(row["kafka"]) == sorted(made)
    [row] = said(run("gc", "v2", "--execute", "--json", **broker))["versions"]
    assert set(row["kafka"]) == set(made) | set(own_groups(settings, "v2"))
    address = {"bootstrap.servers": kafka}
    await until(lambda: not existing(address, made), "the topics to go")
    assert len(existing(address, [topic.name for topic in shared.all()])) == 11
    for group in own_groups(settings, "v2"):
        assert await asyncio.to_thread(committed, kafka, group, shared.items) is None
    assert await asyncio.to_thread(delete, settings, "v2") == []


def _commit(kafka: str, group: str, topic: str) -> None:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": kafka, "group.id": group})
    try:
        consumer.commit(offsets=[TopicPartition(topic, 0, 7)], asynchronous=False)
    finally:
        consumer.close()
