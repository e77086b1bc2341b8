"""The compose file, started: what an operator does with it, in the order of docs/use/operators/deploy.md.

The images are those that its tags name, or the stand-ins of `tests/compose/images.sh`. The tests build on each other.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from freshet import FeatureReader
from tests.support import command_line, servers

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(600)

PROJECT = "freshet-test"
ITEMS, USERS, EVENTS = 24, 200, 6_000
UP = ("--profile", "cpu", "up", "--wait", "--detach")


def docker(*args: str, ok: bool = True) -> str:
    """What `docker` prints; raises with what it said, unless it may fail."""
    done = subprocess.run(["docker", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    if ok and done.returncode:
        raise AssertionError(
            f"docker {' '.join(args)}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    return done.stdout


def compose(*args: str) -> str:
    """`docker compose`, as a project of our own: volumes of a deployment on this host are never touched."""
    return docker("compose", "--project-name", PROJECT, *args)


OPERATOR = {
    "kafka": "127.0.0.1:9092",
    "registry": "http://127.0.0.1:8081",
    "redis_file": ROOT / "deploy/secrets/operator_redis_url",
}


def freshet(*arguments: str, codes: Sequence[int] = (0,)) -> str:
    """What the command of this checkout prints, run on the host, as the operator."""
    return command_line.freshet(*arguments, codes=codes, **OPERATOR)


def containers(service: str) -> list[dict[str, Any]]:
    """What `docker inspect` says of a service's containers."""
    names = compose("ps", "--all", "--quiet", service).split()
    found: list[dict[str, Any]] = json.loads(docker("inspect", *names)) if names else []
    return found


def until(holds: Callable[[], bool], what: str, timeout_s: float = 240.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, (
            f"{what}: not after {timeout_s:g} s\n{compose('logs', '--tail', '30', 'worker')}"
        )
        time.sleep(1.0)


def secret(name: str) -> str:
    return (ROOT / "deploy/secrets" / name).read_text(encoding="utf-8").strip()


@pytest.fixture(scope="module")
def stack() -> Iterator[None]:
    """All of the profile `cpu`, healthy, on empty volumes; gone at the end."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        servers.missing("no docker compose")
    subprocess.run(["bash", str(ROOT / "deploy/secrets.sh")], check=True, capture_output=True)
    compose("--profile", "*", "down", "--volumes", "--remove-orphans")
    compose(*UP)
    yield
    compose("--profile", "*", "down", "--volumes", "--remove-orphans")


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def event(number: int, prefix: str) -> dict[str, Any]:
    return {
        "user_id": f"u{number % USERS}",
        "item_id": f"i{number % ITEMS}",
        "event_time": int(time.time() * 1000) - EVENTS + number,
        "event_id": f"{prefix}{number}",
    }


def present_items(version: str | None = None) -> int:
    with FeatureReader(secret("ranker_redis_url"), timeout_s=5.0, version=version) as reader:
        return int(reader.items([f"i{number}" for number in range(ITEMS)]).present.sum())


def present_users(version: str | None = None) -> int:
    with FeatureReader(secret("ranker_redis_url"), timeout_s=5.0, version=version) as reader:
        return sum(user.present for user in reader.users([f"u{number}" for number in range(USERS)]))


def compared() -> dict[str, Any]:
    """What `freshet rebuild --verify` finds."""
    found: dict[str, Any] = json.loads(freshet("rebuild", "--verify", "--json", codes=(0, 1)).splitlines()[-1])
    return found


def test_everything_becomes_healthy(stack: None) -> None:
    """Catches a service that does not start under its limits, its read-only root or its user."""
    for service in ("kafka", "registry", "valkey", "llm-cpu", "worker"):
        for one in containers(service):
            assert one["State"]["Health"]["Status"] == "healthy", service
            assert one["RestartCount"] == 0, service
    (prepared,) = containers("prepare")
    assert prepared["State"]["ExitCode"] == 0


def test_a_worker_has_no_rights_it_does_not_need(stack: None) -> None:
    """Catches limits that Compose took and the engine did not, and a secret that shows."""
    (worker,) = containers("worker")
    host = worker["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (4 << 30, 2_000_000_000, 500)
    status = compose("exec", "worker", "cat", "/proc/self/status")
    assert "CapBnd:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Uid:\t10001" in status
    password = secret("redis_url").split(":")[2].partition("@")[0]
    assert password not in json.dumps(containers("worker") + containers("valkey"))
    assert password not in compose("logs")


def test_items_and_users_get_features(stack: None, tmp_path: Path) -> None:
    """Catches a stack whose parts are healthy and do not work together."""
    items = [{"item_id": f"i{n}", "title": f"Enamel coffee mug, colour {n}, 350 ml"} for n in range(ITEMS)]
    freshet("send", "items", lines(tmp_path / "items.jsonl", items))
    freshet("send", "events", lines(tmp_path / "events.jsonl", [event(n, "a") for n in range(EVENTS)]))
    until(lambda: present_items() == ITEMS, "features of items")
    until(lambda: present_users() == USERS, "features of users")

    def told() -> int:
        with FeatureReader(secret("ranker_redis_url"), timeout_s=5.0) as reader:
            return sum(reader.knowledge(f"i{n}") is not None for n in range(ITEMS))

    until(lambda: told() > 0, "knowledge, from the LLM")
    shown = compose("exec", "worker", "freshet", "features", "get", "user", "u1")
    assert "inferred_vector" in shown


def test_three_workers_one_killed_and_nothing_lost(stack: None, tmp_path: Path) -> None:
    """Catches a worker that no policy restarts, and an event that went with it."""
    compose(*UP, "--scale", "worker=3", "--no-recreate")
    file = lines(tmp_path / "events.jsonl", [event(n, "b") for n in range(EVENTS)])
    with ThreadPoolExecutor(1) as pool:
        sender = pool.submit(freshet, "send", "events", file, "--rate", "600", "--json")
        time.sleep(3.0)
        # Everything in the container but its init; that ends too, and the engine starts the container again.
        compose("exec", "--index", "2", "worker", "python", "-c", "import os; os.kill(-1, 9)")
        sender.result(60)
    until(lambda: sorted(one["RestartCount"] for one in containers("worker")) == [0, 0, 1], "a restart")
    until(lambda: all(one["State"]["Health"]["Status"] == "healthy" for one in containers("worker")), "health")
    until(lambda: not compared()["differences"], "every event in its history")


def test_a_version_is_filled_beside_the_old_one(stack: None) -> None:
    """Catches a replay profile that lacks a setting, a secret or a volume."""
    freshet("versions", "create", "v2")
    one = ("run", "--rm", "--no-deps", "--env", "FRESHET_VERSION=v2")
    compose(*one, "worker", "topics", "create")
    compose(*one, "worker", "schemas", "register")
    compose(*one, "--detach", "--name", f"{PROJECT}-worker-v2", "worker")
    try:
        until(lambda: bool(json.loads(freshet("versions", "status", "v2", "--json"))["workers"]), "a worker of v2")
        compose("run", "--rm", "--no-deps", "replay", "replay", "--into", "v2", "--execute")
        until(lambda: present_items("v2") == ITEMS and present_users("v2") == USERS, "features of v2")
        freshet("versions", "activate", "v2")
        freshet("versions", "rollback")
    finally:
        docker("rm", "--force", f"{PROJECT}-worker-v2", ok=False)


def test_redis_lost_whole_is_rebuilt(stack: None) -> None:
    """Catches a stack that does not come back from an empty volume."""
    compose("stop", "valkey")
    compose("rm", "--force", "valkey")
    docker("volume", "rm", f"{PROJECT}_valkey-data")
    compose("up", "--wait", "--detach", "--no-deps", "valkey")
    assert present_items() < ITEMS  # a lane may be writing again already
    freshet("rebuild", "--version", "v1", "--json")
    assert present_items("v1") == ITEMS
    assert not compared()["differences"]


def test_prometheus_finds_every_worker(stack: None) -> None:
    """Catches a scrape that finds one of three, and rules that do not load."""
    compose("--profile", "observability", "up", "--wait", "--detach", "--no-deps", "prometheus")

    def answer(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:9090/api/v1/{path}", timeout=5) as response:
            return json.load(response)["data"]

    def workers() -> list[str]:
        found = [one for one in answer("targets")["activeTargets"] if one["labels"]["job"] == "freshet-worker"]
        return [one["health"] for one in found]

    until(lambda: workers() == ["up"] * 3, "three workers to be scraped", 90.0)
    assert answer("rules")["groups"]


def test_it_stops_in_time(stack: None) -> None:
    """Catches a worker that has to be killed."""
    compose("stop", "worker")
    assert [one["State"]["ExitCode"] for one in containers("worker")] == [0, 0, 0]
