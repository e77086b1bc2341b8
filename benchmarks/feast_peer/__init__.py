"""Feast beside us: an environment of its own, as its dependencies are not ours, and how to start its client in it.

Owns `.venv-feast`. Must not import Feast.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from benchmarks.children import ROOT, Child

CONSTRAINTS = ROOT / "constraints" / "feast.txt"
VENV = ROOT / ".venv-feast"
MARK = ".pins"


def ready() -> bool:
    """Whether the environment is there, with the pins of today."""
    mark = VENV / MARK
    return mark.exists() and mark.read_text() == _wanted()


def prepare(python: str = sys.executable) -> Path:
    """The interpreter of Feast's environment, made on the first call and after a change of the pins (a minute)."""
    interpreter = VENV / "bin" / "python"
    if not ready():
        subprocess.run([python, "-m", "venv", "--clear", str(VENV)], check=True)
        command = [str(interpreter), "-m", "pip", "install", "--quiet", "--requirement", str(CONSTRAINTS)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        (VENV / MARK).write_text(_wanted())
    return interpreter


def _wanted() -> str:
    return hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()


def start(interpreter: Path) -> Child:
    """Feast's client, which answers lines as `benchmarks.reader_client` does."""
    return Child([str(interpreter), "-m", "benchmarks.feast_peer.client"])
