"""A stand-in for an LLM server, as a process that can be killed: `python -m tests.support.loopback_llm PORT DELAY_S`.

Owns that process, from the outside (`LoopbackLlm`) and from the inside. Its answers are of the schema asked for and
mean nothing: what is measured with it is everything but the model.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from local.stack.llm import http_ok
from local.stack.process import HOST, ChildProcess, free_port
from tests.support.fakes_llm import FakeLlmServer, Trouble


class LoopbackLlm:
    """One server on one address: `start`, `stop`, and `start` again. Each answer takes `delay_s`."""

    def __init__(self, folder: Path, *, delay_s: float) -> None:
        self._folder = folder
        self._delay_s = delay_s
        self.port = free_port()
        self.child: ChildProcess | None = None

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://{HOST}:{self.port}/v1"

    def start(self) -> None:
        """Start, and wait until it answers."""
        argv = [sys.executable, "-m", "tests.support.loopback_llm", str(self.port), str(self._delay_s)]
        self.child = ChildProcess("loopback LLM", argv, log=self._folder / "llm.log", grace_s=0.0)
        self.child.start()
        self.child.wait_ready(lambda: http_ok(f"{self.url}/models"), 30.0)

    def stop(self) -> None:
        """End it at once, in the middle of what it answers. May be called twice."""
        if self.child is not None:
            self.child.stop()


def main(argv: list[str]) -> None:
    """Serve until killed."""
    with FakeLlmServer(Trouble(delay_s=float(argv[1])), port=int(argv[0])):
        threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
