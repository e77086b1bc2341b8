"""A vLLM server on the CPU as a supervised child process.

Owns its life: port, readiness, end. Its command line is `models/llm/vllm_server.py`'s, its weights
`models/encoder/weights.py`'s.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from local.stack.process import HOST, ChildProcess, free_port
from models.llm.vllm_server import vllm_command

# Cold: the imports alone read 1.5 GB from disk; two busy cores make it minutes.
START_TIMEOUT_S = 600.0
# On two busy cores an answer to /health may take seconds; a minute without one never came back by itself.
HUNG_AFTER_S = 60.0
HEALTH_TIMEOUT_S = 10.0


def http_ok(url: str, timeout_s: float = 2.0) -> bool:
    """True when a GET of `url` is answered with a 2xx status."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return bool(200 <= answer.status < 300)
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return False


class LlmServer:
    """One OpenAI-compatible server on a loopback port, serving the weights of one folder."""

    name = "llm"
    about = "vLLM on CPU"
    hung_after_s: float | None = HUNG_AFTER_S

    def __init__(self, python: Path, model_dir: Path, *, folder: Path, port: int | None = None) -> None:
        self._python = python
        self._model_dir = model_dir
        self._folder = folder
        self.child: ChildProcess | None = None
        self._ready_url = ""
        self.port = free_port(port)  # known before it starts: others are told the address while it loads

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}/v1"

    def start(self, timeout_s: float = START_TIMEOUT_S) -> str:
        """Start, or start again on the same port, and wait until it serves; returns its base URL."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port(self.port)
        command = vllm_command(self._python, self._model_dir, self.port, cpus=os.sched_getaffinity(0))
        self._ready_url = command.ready_url
        env = {**os.environ, **command.env}
        self.child = ChildProcess("vLLM", command.argv, log=self._folder / "vllm.log", env=env, grace_s=5.0)
        self.child.start()
        self.child.wait_ready(self.healthy, timeout_s)
        return self.address

    def healthy(self) -> bool:
        """True when the server says that it is ready; a dead engine behind a live front end is a 503."""
        return bool(self._ready_url) and http_ok(self._ready_url, HEALTH_TIMEOUT_S)

    def stop(self) -> None:
        """End the server and its engine process. May be called twice."""
        if self.child is not None:
            self.child.stop()
