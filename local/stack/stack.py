"""The embedded stack: starts what the settings give no address for, restarts what dies, ends it all.

Owns which services there are and their supervision. How one service starts is in its own module; other processes read
`state.py`.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from local.stack.java import Report, no_report, prepare_jars
from local.stack.kafka import KafkaServer
from local.stack.process import ChildProcess, ServiceError
from local.stack.state import (
    ServiceState,
    ServiceStatus,
    StackLock,
    StackState,
    read_state,
    with_addresses,
    write_state,
)
from local.stack.valkey import ValkeyServer
from models.encoder.weights import ensure_vllm_env, prepare_llm
from streams.settings import Settings

POLL_S = 0.5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
STEADY_S = 60.0  # a service that died sooner after its start counts as a failed restart
CHECK_S = 5.0  # between two questions to a service that is watched for hanging
TRIES = 5  # failed restarts in a row before a service is given up


class Service(Protocol):
    """One server process. `name` is the setting that its address answers; `start` may be called again after a death.

    A live process that has not been `healthy` for `hung_after_s` is ended and started again; None: it is left alone.
    """

    name: str
    about: str
    port: int
    child: ChildProcess | None
    hung_after_s: float | None

    @property
    def address(self) -> str: ...
    def start(self) -> str: ...
    def healthy(self) -> bool: ...
    def stop(self) -> None: ...


@dataclass(slots=True)
class _Member:
    service: Service
    first: threading.Event
    status: ServiceStatus = "starting"
    restarts: int = 0
    error: str = ""


def prepare(settings: Settings, *, llm: bool = True, report: Report = no_report) -> None:
    """Fetch everything the stack will need, so that starting it needs no network; does nothing the second time."""
    if not settings.kafka.servers:
        prepare_jars(settings.home, report)
    if llm and not settings.llm.url:
        ensure_vllm_env(settings.home, report)
        prepare_llm(settings.home, report)


def _services(settings: Settings, folder: Path, durable: bool, llm: bool, report: Report) -> list[Service]:
    """One service for each empty address, on the ports of last time where they are still free."""
    last = read_state(settings.home)

    def port(name: str) -> int | None:
        service = last.service(name) if last and durable else None
        digits = service.address.rpartition(":")[2].partition("/")[0] if service else ""
        return int(digits) if digits.isdecimal() else None

    services: list[Service] = []
    if llm and not settings.llm.url:
        from local.stack.llm import LlmServer
        from models.encoder.weights import ensure_vllm_env, prepare_llm

        python, weights = ensure_vllm_env(settings.home, report), prepare_llm(settings.home, report)
        services.append(LlmServer(python, weights, folder=folder / "llm", port=port("llm")))
    if not settings.redis.url:
        services.append(ValkeyServer(folder=folder / "valkey", durable=durable, port=port("redis")))
    if not settings.kafka.servers:
        services.append(
            KafkaServer(settings.home, folder=folder / "kafka", durable=durable, port=port("kafka"), report=report)
        )
    return services


class Stack:
    """Kafka, Valkey and an LLM server for as long as the context lasts.

    Without `folder` all data goes with the stack; with it Kafka and Valkey keep theirs for the next start.
    `services` replaces the built-in ones; setting `stopping`, from a signal handler, ends a start under way.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        folder: Path | None = None,
        llm: bool = True,
        report: Report = no_report,
        services: list[Service] | None = None,
        stopping: threading.Event | None = None,
    ) -> None:
        self.settings = settings
        self._llm = llm
        self._report = report
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._given = services
        self._members: list[_Member] = []
        self._threads: list[threading.Thread] = []
        self._stopping = stopping or threading.Event()
        self._changed = threading.Lock()
        self._lock = StackLock(settings.home)
        self._published = False

    def start(self) -> Settings:
        """Start everything; return the settings with its addresses once Kafka and Valkey serve.

        The LLM server goes on loading: `wait("llm")` for it. Raises `ServiceError`, with nothing left running.
        """
        try:
            self._published = self._lock.acquire()  # else a stack of `freshet up` runs: leave its file alone
            for service in self._services():
                self._members.append(_Member(service, threading.Event()))
            self._publish()
            for member in self._members:
                thread = threading.Thread(target=self._supervise, args=(member,), daemon=True)
                self._threads.append(thread)
                thread.start()
            for member in self._members:
                if member.service.name != "llm":
                    self._first_start(member, None)
        except BaseException:
            self.stop()
            raise
        # A port is chosen before the process starts, so the LLM's address is known while it loads.
        self.settings = with_addresses(self.settings, self.state)
        return self.settings

    def _services(self) -> list[Service]:
        if self._given is not None:
            return self._given
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="freshet-stack-", ignore_cleanup_errors=True)
        folder = self._folder or Path(self._temporary.name if self._temporary else "")
        return _services(self.settings, folder, self._folder is not None, self._llm, self._report)

    def wait(self, name: str, timeout_s: float | None = None) -> None:
        """Return once the service has started; raises `ServiceError` with its log's end if it did not."""
        for member in self._members:
            if member.service.name == name:
                self._first_start(member, timeout_s)

    def _first_start(self, member: _Member, timeout_s: float | None) -> None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not member.first.wait(0.2):
            if self._stopping.is_set():
                raise ServiceError(f"stopped while {member.service.about} was starting")
            if deadline is not None and time.monotonic() >= deadline:
                raise ServiceError(f"{member.service.about} is still starting after {timeout_s:g} s")
        if member.status == "failed":
            raise ServiceError(member.error)

    @property
    def state(self) -> StackState:
        """Every service as it is now."""
        return StackState(os.getpid(), tuple(_shown(member) for member in self._members))

    @property
    def published(self) -> bool:
        """False when another stack of this home runs, whose state file is not ours to write."""
        return self._published

    def stop(self) -> None:
        """End every service, newest first, and delete what was temporary. May be called twice."""
        self._stopping.set()
        pairs = list(zip(self._members, self._threads, strict=False))
        for member, _ in reversed(pairs):
            member.service.stop()
        for member, thread in reversed(pairs):
            while thread.is_alive():  # a thread may have been just before its child's start
                thread.join(0.2)
                member.service.stop()
            member.status = "stopped" if member.status != "failed" else "failed"
        self._publish()
        self._lock.release()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _supervise(self, member: _Member) -> None:
        """Keep one service up: a failed first start is an error, a later death a restart."""
        failures = 0
        while not self._stopping.is_set():
            try:
                member.service.start()
            except (ServiceError, OSError) as error:
                if self._stopping.is_set():
                    return
                failures += 1
                self._set(member, "restarting", str(error))
            else:
                began = time.monotonic()
                self._set(member, "ready")
                what = self._watch(member.service)
                if self._stopping.is_set():
                    return
                member.restarts += 1
                failures = 0 if time.monotonic() - began >= STEADY_S else failures + 1
                self._set(member, "restarting", what)
            if not member.first.is_set() or failures >= TRIES:
                self._set(member, "failed", member.error)
                return
            self._stopping.wait(min(FIRST_PAUSE_S * 2**failures, LONGEST_PAUSE_S))

    def _watch(self, service: Service) -> str:
        """How a service died or hung; it has ended when this returns, unless the stack is to stop.

        A process may live and serve no more: vLLM's front end survives its engine, and answers 503.
        """
        assert service.child is not None
        well = asked = time.monotonic()
        while service.child.running and not self._stopping.wait(POLL_S):
            now = time.monotonic()
            if service.hung_after_s is None or now - asked < min(CHECK_S, service.hung_after_s):
                continue
            if service.healthy():
                well = now
            elif now - well >= service.hung_after_s and not self._stopping.is_set():
                service.stop()
                return f"was alive, but not healthy for {now - well:.0f} s"
            asked = time.monotonic()
        return f"ended with code {service.child.returncode()}"

    def _set(self, member: _Member, status: ServiceStatus, error: str = "") -> None:
        member.status, member.error = status, error
        self._publish()  # first: who waited reads the file
        if status in ("ready", "failed"):
            member.first.set()

    def _publish(self) -> None:
        with self._changed:
            if self._published:
                write_state(self.settings.home, self.state)

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


def _shown(member: _Member) -> ServiceState:
    service = member.service
    child = service.child
    return ServiceState(
        name=service.name,
        about=service.about,
        status=member.status,
        address=service.address if service.port else "",
        pid=child.pid if child is not None and child.running else 0,
        log=str(child.log) if child is not None else "",
        restarts=member.restarts,
        error=member.error,
    )
