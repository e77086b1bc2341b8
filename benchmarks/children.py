"""Child processes that answer one JSON line with one JSON line, for benchmarks that need several interpreters.

Owns both ends of the line. A child ends when its parent does, as its standard input ends then.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]


class Child:
    """The parent's end. `tell` and `hear` apart let several children work at once."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._name = argv[-1]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def tell(self, **wish: Any) -> None:
        """Send a wish and go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(wish) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The answer to the wish told last; raises RuntimeError where the child died of it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **wish: Any) -> dict[str, Any]:
        """Send a wish, wait for the answer."""
        self.tell(**wish)
        return self.hear()

    def stop(self) -> None:
        """Let it end; may be called twice."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def serve(answer: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """The child's end: answer every line until the parent is gone."""
    # Whatever a library prints would be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(dict(answer(json.loads(line)))), file=answers, flush=True)
