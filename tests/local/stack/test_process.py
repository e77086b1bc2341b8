"""Children end with their parent, a failed start says why, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from local.stack.process import ChildProcess, ServiceError, answers, free_port


def gone(pid: int, within_s: float = 5.0) -> bool:
    """True when the process ends in time; a zombie has ended."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def child(tmp_path: Path, code: str, grace_s: float = 2.0) -> ChildProcess:
    return ChildProcess("toy", [sys.executable, "-u", "-c", code], log=tmp_path / "toy.log", grace_s=grace_s)


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 10
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)
    return path.read_text().strip()


def test_stop_ends_a_child_that_ignores_sigterm(tmp_path: Path) -> None:
    toy = child(tmp_path, "import signal,time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(60)", 0.2)
    toy.start()
    toy.wait_ready(lambda: "up" in toy.log.read_text(), 10)
    toy.stop()
    assert gone(toy.pid)
    assert not toy.running


def test_stop_ends_grandchildren_that_left_the_group(tmp_path: Path) -> None:
    left = tmp_path / "grandchild"
    toy = child(
        tmp_path,
        "import subprocess,sys,time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        f"print(p.pid, file=open({str(left)!r}, 'w'))\ntime.sleep(60)",
    )
    toy.start()
    grandchild = int(wait_for(left))
    toy.stop()
    assert gone(grandchild)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_child_dies_with_a_killed_parent(tmp_path: Path, number: int) -> None:
    left = tmp_path / "pid"
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys,time,threading\nfrom pathlib import Path\n"
            "from local.stack.process import ChildProcess\n"
            f"toy = ChildProcess('toy', ['sleep', '60'], log=Path({str(tmp_path / 'toy.log')!r}))\n"
            "t = threading.Thread(target=toy.start); t.start(); t.join()\n"  # the starting thread is gone
            f"time.sleep(0.3); print(toy.pid, file=open({str(left)!r}, 'w')) if toy.running else None\n"
            "time.sleep(60)",
        ]
    )
    pid = int(wait_for(left))
    os.kill(parent.pid, number)
    parent.wait()
    assert gone(pid)


def test_child_dies_with_a_killed_guard(tmp_path: Path) -> None:
    toy = child(tmp_path, "import time; time.sleep(60)")
    toy.start()
    guard = int(Path(f"/proc/{toy.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(guard, signal.SIGKILL)
    assert gone(toy.pid)
    toy.stop()


def test_a_death_before_ready_shows_the_log(tmp_path: Path) -> None:
    toy = child(tmp_path, "print('the port is taken'); raise SystemExit(3)")
    toy.start()
    with pytest.raises(ServiceError, match=r"ended with code 3(.|\n)*the port is taken"):
        toy.wait_ready(lambda: False, 10)


def test_a_late_start_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    toy = child(tmp_path, "import time; time.sleep(60)", 0.1)
    toy.start()
    with pytest.raises(ServiceError, match=r"not ready after 0\.2 s"):
        toy.wait_ready(lambda: False, 0.2)
    assert gone(toy.pid)


def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    toy = ChildProcess("toy", ["/no/such/command"], log=tmp_path / "toy.log")
    with pytest.raises(ServiceError, match=r"toy cannot be run: .*/no/such/command"):
        toy.start()


def test_a_taken_port_is_not_handed_out() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert answers("127.0.0.1", port)
        assert free_port(port) != port
    assert not answers("127.0.0.1", port)
