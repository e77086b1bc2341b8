"""The code blocks of a page, and the shell and Python session that they run in.

Owns the convention. An HTML comment on the line before a block says how it runs; without one it runs once and must
succeed:

    <!-- not run: REASON -->                 nobody runs it
    <!-- run: in a second terminal -->       runs beside the blocks after it, until the page ends
    <!-- run: again until it works -->       repeated while it fails, for at most a minute
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

from local.stack.process import ChildProcess

How = Literal["once", "second terminal", "until it works", "not run"]
HOW: dict[str, How] = {"in a second terminal": "second terminal", "again until it works": "until it works"}

BLOCK = re.compile(r"(?:^<!-- (?P<note>.*?) -->\n)?^```(?P<language>bash|python)\n(?P<code>.*?)^```$", re.M | re.S)
BLOCK_TIMEOUT_S = 120.0
REPEAT_S = 60.0
STOP_S = 30.0
GRACE_S = 3.0  # a worker drains for longer, and nothing on a page depends on how it ends
LIVED_S = 5.0  # what cannot start in a second terminal has ended by then

# Ends a shell block by telling what it left: the folder and the exported variables, which the next block starts with.
_SHELL = "set -euo pipefail\ntrap 'code=$?; {{ pwd; env -0; }} >\"{state}\"; exit $code' EXIT\n{code}"
# Runs Python blocks in one namespace, as an open interpreter does. What the blocks print goes to stderr.
_PYTHON = """
import json, os, sys, traceback
answers, sys.stdout, names = sys.stdout, sys.stderr, {"__name__": "__main__"}
for line in sys.stdin:
    block = json.loads(line)
    os.environ.clear(); os.environ.update(block["environment"]); os.chdir(block["folder"])
    try:
        exec(compile(block["code"], "block", "exec"), names); error = ""
    except BaseException:
        error = traceback.format_exc()
    print(json.dumps(error), file=answers, flush=True)
"""


class BlockFailed(AssertionError):
    """A block did not do what its page says; the message names page and line, and holds the code and its output."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block; `line` is that of its fence, `why` the reason of a block that is not run."""

    page: str
    line: int
    language: str
    code: str
    how: How = "once"
    why: str = ""

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, text: str) -> list[Block]:
    """The shell and Python blocks of a page, in order. Raises ValueError for a comment that means nothing."""
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        kind, _, words = (match["note"] or "").partition(": ")
        how: How = "once"
        if kind == "not run" and words:
            how = "not run"
        elif kind == "run" and words in HOW:
            how = HOW[words]
        elif kind in ("run", "not run"):
            raise ValueError(f"{page}:{line}: <!-- {match['note']} --> says nothing about how a block runs")
        found.append(Block(page, line, match["language"], match["code"], how, words if how == "not run" else ""))
    return found


@dataclass(slots=True)
class Terminal:
    """Runs blocks one after the other; folder and variables last from block to block, as in a terminal.

    `stands_for` maps what a page writes (the address of your Redis) to the variable, or value, that it stands for.
    """

    folder: Path
    environment: dict[str, str]
    scratch: Path
    stands_for: Mapping[str, str] = field(default_factory=dict)
    _beside: list[tuple[Block, ChildProcess, float]] = field(default_factory=list)
    _python: subprocess.Popen[str] | None = None

    def run(self, block: Block) -> None:
        """Run one block; raises `BlockFailed`."""
        self._check_beside()
        code = block.code
        for written, meant in self.stands_for.items():
            code = code.replace(written, meant)
        if block.how == "second terminal":
            self._start(block, code)
            return
        deadline = time.monotonic() + (REPEAT_S if block.how == "until it works" else 0.0)
        while error := self._shell(code) if block.language == "bash" else self._exec(code):
            if time.monotonic() >= deadline:
                beside = "".join(f"\n--- beside it:\n{one.log.read_text()[-3000:]}" for _, one, _ in self._beside)
                raise BlockFailed(f"{block.name}\n{code}\n--- failed:\n{error[-5000:]}{beside}")
            time.sleep(0.5)
        self._check_beside()

    def _shell(self, code: str) -> str:
        """What the code printed if it failed, else nothing."""
        state = self.scratch / "state"
        done = subprocess.run(
            ["bash", "-c", _SHELL.format(state=state, code=code)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BLOCK_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            return f"{done.stdout}\nexit code {done.returncode}"
        folder, _, variables = state.read_text().partition("\n")
        self.folder = Path(folder)
        pairs = (pair.partition("=") for pair in variables.split("\0") if pair)
        self.environment = {name: value for name, _, value in pairs}
        return ""

    def _exec(self, code: str) -> str:
        """The traceback if the code failed, else nothing."""
        if self._python is None:
            log: IO[str] = (self.scratch / "python.log").open("w")
            self._python = subprocess.Popen(
                [sys.executable, "-c", _PYTHON],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            log.close()
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        block = {"code": code, "environment": self.environment, "folder": str(self.folder)}
        print(json.dumps(block), file=self._python.stdin, flush=True)
        answer = self._python.stdout.readline()
        return str(json.loads(answer)) if answer else f"Python ended: {(self.scratch / 'python.log').read_text()}"

    def _start(self, block: Block, code: str) -> None:
        log = self.scratch / f"beside-{len(self._beside)}.log"
        argv = ["bash", "-c", f"set -euo pipefail\n{code}"]
        process = ChildProcess(block.name, argv, log=log, env=self.environment, cwd=self.folder, grace_s=GRACE_S)
        process.start()
        self._beside.append((block, process, time.monotonic()))

    def _check_beside(self) -> None:
        """What runs in a second terminal must go on running."""
        for block, process, _ in self._beside:
            if not process.running:
                raise BlockFailed(f"{block.name}\n{block.code}\n--- ended:\n{process.log.read_text()[-5000:]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every second terminal, and Python; raises `BlockFailed` where a terminal's command did not last."""
        try:
            if kind is None and self._beside:
                youngest = max(started for _, _, started in self._beside)
                time.sleep(max(0.0, youngest + LIVED_S - time.monotonic()))
                self._check_beside()
        finally:
            for _, process, _ in self._beside:
                process.stop()
            self._beside.clear()
            if self._python is not None:
                self._python.communicate(timeout=STOP_S)
                self._python = None
