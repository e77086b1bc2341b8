"""Prints the newest Python here that is newer than the one that runs this, and nothing where there is none.

Looks at PYTHON_NEWEST, at the commands `python3.N` and at what pyenv installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NEWEST_MINOR = 20


def candidates() -> Iterator[str]:
    """Interpreters that may be here; a command of pyenv's may exist and not run."""
    if named := os.environ.get("PYTHON_NEWEST"):
        yield named
        return
    names = [f"python3.{minor}" for minor in range(NEWEST_MINOR, sys.version_info.minor, -1)]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for name in names:
        if found := shutil.which(name):
            yield found
        yield from map(str, sorted(pyenv.glob(f"{name.removeprefix('python')}.*/bin/{name}")))


def minor_version(python: str) -> int:
    """N of the 3.N that an interpreter is; 0 where it does not run, or cannot make environments."""
    code = "import ensurepip, sys, venv; print(sys.version_info.minor)"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return int(done.stdout) if done.returncode == 0 else 0


def newest() -> str:
    """The interpreter, or an empty string."""
    found = [(minor_version(python), python) for python in candidates()]
    minor, python = max(found, default=(0, ""))
    return python if minor > sys.version_info.minor else ""


if __name__ == "__main__":
    print(newest())
