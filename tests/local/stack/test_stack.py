"""The stack restarts what dies, tells other processes the truth, and leaves no orphan however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from local.stack.llm import http_ok
from local.stack.process import HOST, ChildProcess, ServiceError, answers, free_port
from local.stack.stack import Stack
from local.stack.state import ServiceState, StackLock, StackState, read_state, resolve, running, state_file
from store.token_budget import TokenBudget
from streams.settings import SettingError, Settings
from tests.local.stack.test_process import gone

SERVE = "import http.server,sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), None).serve_forever()"


class Toy:
    """A service that listens, or one that dies at its start."""

    def __init__(self, folder: Path, name: str = "llm", code: str = SERVE) -> None:
        self.name, self.about = name, f"toy {name}"
        self.port = free_port()
        self.child: ChildProcess | None = None
        self.hung_after_s: float | None = None
        self._log, self._code = folder / f"{name}.log", code

    @property
    def address(self) -> str:
        return f"redis://{HOST}:{self.port}/0" if self.name == "redis" else f"http://{HOST}:{self.port}/v1"

    def start(self) -> str:
        argv = [sys.executable, "-c", self._code, str(self.port)]
        self.child = ChildProcess(self.about, argv, log=self._log, grace_s=0.0)
        self.child.start()
        self.child.wait_ready(self.healthy, 20)
        return self.address

    def healthy(self) -> bool:
        return answers(HOST, self.port)

    def stop(self) -> None:
        if self.child is not None:
            self.child.stop()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load({}, home=tmp_path)


def until(true: Callable[[], object], within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def shown(home: Path) -> StackState:
    state = running(home)
    assert state is not None
    return state


def pid_of(state: ServiceState) -> int:
    """Its process, to be killed: 0 would be every process of this test run."""
    assert state.pid > 0
    return state.pid


def test_a_dead_service_is_started_again_on_its_address(settings: Settings, tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    with Stack(settings, services=[toy]) as stack:
        stack.wait("llm", 20)
        first = shown(settings.home).services[0]
        os.kill(pid_of(first), signal.SIGKILL)
        until(lambda: shown(settings.home).services[0].restarts == 1 and shown(settings.home).services[0].pid > 0)
        until(lambda: shown(settings.home).services[0].status == "ready")
        second = shown(settings.home).services[0]
        assert (second.address, second.pid != first.pid) == (first.address, True)
        assert toy.healthy()
    assert gone(second.pid)


SICK = """
import http.server, pathlib, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if pathlib.Path(sys.argv[0]).exists() else 200)
        self.end_headers()
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
"""


class Patient(Toy):
    """A service with a health page: 503 while the file `sick` exists."""

    def __init__(self, folder: Path) -> None:
        self.sick = folder / "sick"
        super().__init__(folder, code=SICK.replace("sys.argv[0]", repr(str(self.sick))))
        self.hung_after_s = 1.0

    def healthy(self) -> bool:
        return http_ok(f"http://{HOST}:{self.port}/health", 0.5)


@pytest.mark.parametrize("how", ["stopped", "503"])
def test_a_service_that_lives_and_serves_no_more_is_started_again(settings: Settings, tmp_path: Path, how: str) -> None:
    """Catches a hung server, or a front end whose engine has died, that keeps the item lane waiting for ever."""
    toy = Patient(tmp_path)
    with Stack(settings, services=[toy]) as stack:
        stack.wait("llm", 20)
        first = shown(settings.home).services[0]
        time.sleep(2.0)
        assert shown(settings.home).services[0].restarts == 0, "a well service is left alone"
        if how == "stopped":
            os.kill(pid_of(first), signal.SIGSTOP)
        else:
            toy.sick.touch()
        until(lambda: shown(settings.home).services[0].restarts == 1)
        assert gone(first.pid)
        toy.sick.unlink(missing_ok=True)
        until(lambda: shown(settings.home).services[0].status == "ready")
        assert toy.healthy()
        assert shown(settings.home).services[0].address == first.address


def test_an_unhealthy_service_without_a_limit_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    """Catches a broker that recovers its log and is killed for it."""
    toy = Patient(tmp_path)
    toy.hung_after_s = None
    with Stack(settings, services=[toy]) as stack:
        stack.wait("llm", 20)
        toy.sick.touch()
        time.sleep(3.0)
        assert shown(settings.home).services[0].restarts == 0


def test_a_service_that_cannot_start_ends_the_others_and_shows_its_log(settings: Settings, tmp_path: Path) -> None:
    good = Toy(tmp_path, "redis")
    bad = Toy(tmp_path, "kafka", "raise SystemExit('no room on the device')")
    with pytest.raises(ServiceError, match="no room on the device"):
        Stack(settings, services=[good, bad]).start()
    assert good.child is None or gone(good.child.pid)
    assert running(settings.home) is None


def test_other_processes_get_the_addresses_while_it_runs_and_only_then(settings: Settings, tmp_path: Path) -> None:
    toy = Toy(tmp_path, "redis")
    with Stack(settings, services=[toy]):
        assert resolve(settings, "redis").redis.url == toy.address
        given = Settings.load({}, home=tmp_path, redis="redis://elsewhere:6379/0")
        assert resolve(given).redis.url == "redis://elsewhere:6379/0"
    assert read_state(settings.home) is not None, "the next start takes its ports from it"
    with pytest.raises(SettingError, match=r"FRESHET_REDIS is .*freshet up"):
        resolve(settings, "redis")


def test_a_second_stack_of_one_home_leaves_the_first_ones_state(settings: Settings, tmp_path: Path) -> None:
    with Stack(settings, services=[Toy(tmp_path, "redis")]) as first:
        with Stack(settings, services=[Toy(tmp_path, "kafka")]) as second:
            assert (first.published, second.published) == (True, False)
            assert [s.name for s in shown(settings.home).services] == ["redis"]
        assert [s.status for s in shown(settings.home).services] == ["ready"]


def test_a_torn_state_file_is_no_stack(settings: Settings) -> None:
    lock = StackLock(settings.home)
    assert lock.acquire()
    state_file(settings.home).write_text('{"supervisor": 1, "serv')
    assert running(settings.home) is None
    lock.release()


def test_stop_ends_a_start_under_way(settings: Settings, tmp_path: Path) -> None:
    slow = Toy(tmp_path, "llm", "import time; time.sleep(60)")
    stack = Stack(settings, services=[slow])
    stack.start()
    until(lambda: slow.child is not None and slow.child.pid)
    began = time.monotonic()
    stack.stop()
    assert time.monotonic() - began < 5
    assert slow.child is not None
    assert gone(slow.child.pid)
    state = read_state(settings.home)
    assert state is not None
    assert state.services[0].status == "stopped"


# ---- the command line, with the real Kafka and Valkey


@pytest.fixture
def freshet(kafka: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run `freshet` in a home of its own that borrows the fetched jars; `kafka` says that a broker can be had."""
    home = tmp_path / "home"
    home.mkdir()
    jars = Settings.load().home / "kafka"
    if jars.exists():
        (home / "kafka").symlink_to(jars)
    env = {k: v for k, v in os.environ.items() if not k.startswith("FRESHET_")} | {"FRESHET_HOME": str(home)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cli", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)

    yield run
    run("down", "--erase")


def test_up_status_down_leave_no_orphan(freshet: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert freshet("status", "--json").returncode == 1, "nothing runs yet"
    up = freshet("up", "--no-llm")
    assert up.returncode == 0, up.stderr
    status = json.loads(freshet("status", "--json").stdout)
    assert {s["name"]: s["healthy"] for s in status["services"]} == {"redis": True, "kafka": True}
    assert status["active_version"] is None
    assert set(status["lag"].values()) == {0}
    assert status["distill"] == {"backlog": 0, "budget": None}
    with redis.Redis.from_url(next(s["address"] for s in status["services"] if s["name"] == "redis")) as client:
        budget = TokenBudget(client, limit=1_000)
        budget.settle(budget.reserve(400), 300)
    shown_budget = json.loads(freshet("status", "--json").stdout)["distill"]["budget"]
    assert (shown_budget["spent"], shown_budget["limit"], shown_budget["held"]) == (300, 1_000, 0)
    assert 0 < shown_budget["resets_in_s"] <= 3_600
    text = freshet("status").stdout
    assert "LLM tokens this hour: 300 of 1,000" in text
    assert "Items waiting for the LLM: 0" in text
    assert freshet("up", "--no-llm").stdout.startswith("The stack is already running")
    down = freshet("down")
    assert down.returncode == 0, down.stderr
    assert all(gone(s["pid"]) for s in status["services"])
    assert "Nothing is running" in freshet("status").stdout

    again = freshet("up", "--no-llm")
    assert again.returncode == 0, again.stderr
    second = json.loads(freshet("status", "--json").stdout)
    addresses = [{s["name"]: s["address"] for s in seen["services"]} for seen in (status, second)]
    assert addresses[0] == addresses[1], "addresses written down elsewhere must hold"
    home = Path(second["home"])
    state = running(home)
    assert state is not None
    os.kill(state.supervisor, signal.SIGKILL)
    assert all(gone(s["pid"]) for s in second["services"])
    until(lambda: running(home) is None)
