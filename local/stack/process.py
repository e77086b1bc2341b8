"""Child processes that cannot outlive their parent: start, readiness with a deadline, stop, and the log's tail.

Owns the parent's side of `guard.py`. Must not know what the child is: Kafka, Valkey and vLLM have modules of their own.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from local.stack import guard

HOST = "127.0.0.1"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.25


class ServiceError(RuntimeError):
    """A service could not be started or prepared; the message says why and what to do, with the end of its log."""


def free_port(preferred: int | None = None) -> int:
    """A loopback TCP port nobody listens on now; `preferred` when that one is free."""
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServiceError("no free loopback port")


def log_tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log, indented, for an error message."""
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 16_384))
            text = log.read().decode(errors="replace")
    except OSError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (the log is empty)"


class ChildProcess:
    """One supervised command: own process group, output in a log file, ended with its parent even on `kill -9`."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace_s: float = 10.0,
    ) -> None:
        self.name = name
        self.log = log
        self._argv = list(argv)
        self._env = dict(os.environ if env is None else env)
        self._cwd = cwd
        self._grace_s = grace_s
        self._guard: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self.pid = 0

    def start(self) -> None:
        """Start the command; raises `ServiceError` when it cannot be executed."""
        if self._guard is not None:
            raise ServiceError(f"{self.name} is already started")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        read_end, self._lifeline = os.pipe()
        command = [sys.executable, "-I", "-S", guard.__file__, str(read_end), str(os.getpid()), str(self._grace_s)]
        try:
            with self.log.open("ab") as log:
                self._guard = subprocess.Popen(
                    [*command, "--", *self._argv],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=self._env,
                    cwd=self._cwd,
                    pass_fds=(read_end,),
                    start_new_session=True,  # a Ctrl-C in the terminal is ours to handle, in order
                )
        finally:
            os.close(read_end)
        assert self._guard.stdout is not None
        with self._guard.stdout as report:
            word, _, rest = report.readline().decode().strip().partition(" ")
        if word != "pid":
            self.stop()
            raise ServiceError(f"{self.name} cannot be run: {rest or 'its guard died'}")
        self.pid = int(rest)

    def returncode(self) -> int | None:
        """None while the command runs (or was never started), else its exit code; 128 + n when signal n ended it."""
        return None if self._guard is None else self._guard.poll()

    @property
    def running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def wait_ready(self, probe: Callable[[], bool], timeout_s: float) -> None:
        """Ask `probe` until it says yes; raises `ServiceError` with the log's tail on its death or the deadline.

        The child is stopped before the error is raised.
        """
        deadline = time.monotonic() + timeout_s
        pause = _FIRST_PAUSE_S
        while True:
            code = self.returncode()
            if code is not None:
                raise self._failed(f"ended with code {code} before it was ready")
            if probe():
                return
            if time.monotonic() >= deadline:
                raise self._failed(f"was not ready after {timeout_s:g} s")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def stop(self) -> None:
        """End the command and all it started: SIGTERM, `grace_s`, SIGKILL. May be called twice."""
        lifeline, self._lifeline = self._lifeline, -1  # two threads may stop it at once
        if lifeline >= 0:
            os.close(lifeline)
        if self._guard is not None:
            try:
                self._guard.wait(self._grace_s + 10.0)
            except subprocess.TimeoutExpired:
                self._guard.kill()  # its child dies with it
                self._guard.wait()

    def _failed(self, what: str) -> ServiceError:
        self.stop()
        return ServiceError(f"{self.name} {what}; the end of {self.log}:\n{log_tail(self.log)}")


def answers(host: str, port: int, *, send: bytes = b"", expect: bytes = b"", timeout_s: float = 1.0) -> bool:
    """True when the port accepts a connection and, if asked, answers `send` with bytes that start with `expect`."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            if not expect:
                return True
            connection.sendall(send)
            return connection.recv(len(expect)) == expect
    except OSError:
        return False
