"""Whether a worker lives and whether it is ready: heartbeats, and the answers of `/livez`, `/readyz` and `/metrics`.

Owns both questions and the small HTTP server, which has threads of its own: a blocked event loop does not block the
answer. Liveness asks nobody but this process, as a restart mends nothing else; readiness asks Redis too. Must not know
what a lane does.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from streams.metrics import Metrics

EVENT_LOOP = "event loop"
Probe = Callable[[], str]
"""Answers what is wrong, or an empty text; within a second."""


class Health:
    """Heartbeats of a worker's parts, and which lanes wait for a dependency; thread-safe.

    A part that beats no more for `stall_s` is taken for hung. The gauge `backing_off` of `metrics` follows the state
    kept here, and is never read back.
    """

    def __init__(self, metrics: Metrics, *, stall_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.stall_s = stall_s
        self._metrics = metrics
        self._waiting: dict[str, set[object]] = {}
        self._monotonic = monotonic
        self._beats: dict[str, float] = {}
        self._lock = threading.Lock()
        self._probes: dict[str, Probe] = {}
        self.started = False
        """Set by the worker when all lanes run, and taken back when it stops."""

    def beat(self, part: str) -> None:
        """Say that `part` makes progress; one that began to must go on, or `end`."""
        with self._lock:
            self._beats[part] = self._monotonic()

    def end(self, part: str) -> None:
        """Say that `part` ended on purpose."""
        with self._lock:
            self._beats.pop(part, None)

    def wait(self, lane: str, who: object) -> None:
        """Say that `who`, which works for `lane`, waits for a dependency."""
        with self._lock:
            self._waiting.setdefault(lane, set()).add(who)
        self._metrics.backing_off.labels(lane=lane).set(1)

    def resume(self, lane: str, who: object) -> None:
        """Say that `who` waits no more; the lane does while anybody else of it waits."""
        with self._lock:
            others = self._waiting.setdefault(lane, set())
            others.discard(who)
            waiting = bool(others)
        self._metrics.backing_off.labels(lane=lane).set(int(waiting))

    def waiting(self) -> list[str]:
        """The lanes that wait for a dependency, by name."""
        with self._lock:
            return sorted(lane for lane, who in self._waiting.items() if who)

    def probe(self, name: str, probe: Probe) -> None:
        """Ask `probe` whenever readiness is asked for."""
        self._probes[name] = probe

    def hung(self) -> dict[str, float]:
        """Parts that do not beat any more, and for how many seconds."""
        now = self._monotonic()
        with self._lock:
            return {part: now - at for part, at in self._beats.items() if now - at > self.stall_s}

    def live(self) -> list[str]:
        """What a restart would mend; empty where all is well."""
        return [f"{part} has made no progress for {seconds:.0f} s" for part, seconds in sorted(self.hung().items())]

    def ready(self) -> list[str]:
        """Why no work should be expected of this worker; empty where it works."""
        problems = self.live()
        if not self.started:
            problems.append("not all lanes have started")
        if waiting := self.waiting():
            problems.append(f"waiting for a dependency: {', '.join(waiting)}")
        for name, probe in self._probes.items():
            if wrong := probe():
                problems.append(f"{name}: {wrong}")
        return problems


class HealthServer:
    """Answers `/livez`, `/readyz` (200 or 503, JSON that says why) and `/metrics` on one port."""

    def __init__(self, health: Health, metrics: Metrics, *, port: int, host: str = "127.0.0.1") -> None:
        answers = {"/livez": health.live, "/readyz": health.ready}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._send(200, generate_latest(metrics.registry), CONTENT_TYPE_LATEST)
                elif path in answers:
                    problems = answers[path]()
                    body = json.dumps({"ok": not problems, "problems": problems}).encode()
                    self._send(503 if problems else 200, body, "application/json")
                else:
                    self._send(404, b"/livez, /readyz, /metrics\n", "text/plain")

            def _send(self, code: int, body: bytes, kind: str) -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Probes every few seconds are no news."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server((host, port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="freshet-health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5.0)
