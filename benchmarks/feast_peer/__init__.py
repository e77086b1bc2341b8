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


def prepare(python: str = sys.executable) -> Path:
    """The interpreter of Feast's environment, made on the first call and after a change of the pins (a minute)."""
    wanted = hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()
    mark, interpreter = VENV / ".pins", VENV / "bin" / "python"
    if not mark.exists() or mark.read_text() != wanted:
        subprocess.run([python, "-m", "venv", "--clear", str(VENV)], check=True)
        command = [str(interpreter), "-m", "pip", "install", "--quiet", "--requirement", str(CONSTRAINTS)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        mark.write_text(wanted)
    return interpreter


def start(interpreter: Path) -> Child:
    """Feast's client, which answers lines as `benchmarks.reader_client` does."""
    return Child([str(interpreter), "-m", "benchmarks.feast_peer.client"])
