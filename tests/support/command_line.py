"""`freshet` as a process, as people run it, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def freshet(*arguments: str, codes: Sequence[int] = (0,), **variables: object) -> str:
    """What the command prints; fails with all it said where its exit code is none of `codes`.

    `variables` are settings, by their names without FRESHET_, in lower case.
    """
    told = {f"FRESHET_{name.upper()}": str(value) for name, value in variables.items()}
    command = [sys.executable, "-m", "cli", *arguments]
    done = subprocess.run(
        command, env={**os.environ, **told}, capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert done.returncode in codes, f"{' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
