"""What the embedded stack says of itself to other processes: `<home>/stack.json`, believed only while its lock is held.

Owns the file, the lock and the step from settings to addresses. Must not start or stop anything.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from streams.settings import SettingError, Settings

ServiceStatus = Literal["starting", "ready", "restarting", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One service of the stack as its supervisor sees it; `name` is the setting that its address answers."""

    name: str
    about: str
    status: ServiceStatus
    address: str
    pid: int
    log: str
    restarts: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class StackState:
    """The stack as its supervisor last wrote it."""

    supervisor: int
    services: tuple[ServiceState, ...] = field(default=())

    def service(self, name: str) -> ServiceState | None:
        return next((s for s in self.services if s.name == name), None)


def state_file(home: Path) -> Path:
    return home / "stack.json"


def write_state(home: Path, state: StackState) -> None:
    """Replace the file at once: a reader sees the old state or the new one."""
    path = state_file(home)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(state), indent=1))
    temporary.replace(path)


def read_state(home: Path) -> StackState | None:
    """What was last written, by a stack that may be gone; None when there is nothing readable."""
    try:
        raw: Mapping[str, Any] = json.loads(state_file(home).read_text())
        services = tuple(ServiceState(**service) for service in raw["services"])
        return StackState(supervisor=raw["supervisor"], services=services)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _flock(file: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class StackLock:
    """Held by the supervisor as long as it lives; the kernel lets go of it even on `kill -9`, so no pid goes stale."""

    def __init__(self, home: Path) -> None:
        self._path = home / "stack.lock"
        self._file: TextIO | None = None

    def acquire(self, wait_s: float = 1.0) -> bool:
        """True when this process now is the stack's supervisor; False when another one is.

        The wait outlasts somebody who only looks (`held`).
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + wait_s
        file = self._path.open("a")
        while not _flock(file, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                file.close()
                return False
            time.sleep(0.02)
        self._file = file
        return True

    def held(self) -> bool:
        """True when a supervisor lives."""
        try:
            with self._path.open() as file:
                return not _flock(file, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let go; nothing happens when it is not held."""
        if self._file is not None:
            self._file.close()
            self._file = None


def running(home: Path) -> StackState | None:
    """The state of a stack that runs now, else None."""
    return read_state(home) if StackLock(home).held() else None


def with_addresses(settings: Settings, state: StackState) -> Settings:
    """The settings, each empty address filled from the service of that name."""
    found = {service.name: service.address for service in state.services}
    return settings.replace(
        kafka=settings.kafka.servers or found.get("kafka", ""),
        redis=settings.redis.url or found.get("redis", ""),
        llm=settings.llm.url or found.get("llm", ""),
    )


def resolve(settings: Settings, *needed: str) -> Settings:
    """Fill the empty ones of `kafka`, `redis` and `llm` from the running stack.

    Raises `SettingError` for a `needed` one that neither the settings nor a running stack give.
    """
    state = running(settings.home)
    resolved = with_addresses(settings, state) if state else settings
    for name in needed:
        if not resolved.value(name):
            raise SettingError(name, "", "an address, or the stack that `freshet up` starts")
    return resolved
