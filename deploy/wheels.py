"""Builds the wheels of both distributions, from a copy: a build leaves folders behind that would be in the next one.

`python deploy/wheels.py TARGET`; a test builds from what the Dockerfile copies.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = (
    "pyproject.toml", "README.md", "LICENSE", "sdk", "schemas", "store", "models", "processors", "streams",
    "evaluation", "local", "cli",
)  # fmt: skip
_NEVER = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")


def build(target: Path, shipped: Iterable[str] = SHIPPED) -> list[Path]:
    """The wheels of the SDK and the application, made of the files and folders `shipped`, without an index."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "source"
        for name in shipped:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=_NEVER, dirs_exist_ok=True)
            else:
                shutil.copy(ROOT / name, copy / name)
        wheels = Path(temporary) / "wheels"
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-build-isolation",
        ]
        subprocess.run([*command, "--wheel-dir", str(wheels), str(copy / "sdk"), str(copy)], check=True)
        target.mkdir(parents=True, exist_ok=True)
        return [shutil.copy(wheel, target) for wheel in sorted(wheels.glob("*.whl"))]


if __name__ == "__main__":
    for wheel in build(Path(sys.argv[1])):
        print(wheel)
