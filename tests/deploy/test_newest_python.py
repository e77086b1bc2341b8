"""Which other Python the tests run on as well."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deploy.newest_python import newest

NEXT = sys.version_info.minor + 1


def interpreter(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a newer Python: `bin` is its PATH, `pyenv` its pyenv."""
    monkeypatch.delenv("PYTHON_NEWEST", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return tmp_path


def test_the_newest_that_runs_is_taken(machine: Path) -> None:
    """Catches pyenv's command for a version that is not chosen, which exists and fails."""
    assert newest() == ""
    interpreter(machine / f"bin/python3.{NEXT + 1}", "exit 127")
    assert newest() == ""
    wanted = interpreter(machine / f"pyenv/versions/3.{NEXT}.2/bin/python3.{NEXT}", f"echo {NEXT}")
    assert newest() == str(wanted)
    wanted = interpreter(machine / f"bin/python3.{NEXT + 1}", f"echo {NEXT + 1}")
    assert newest() == str(wanted)


def test_one_that_is_named_is_taken(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a Python elsewhere that cannot be named, and an old one taken for new."""
    interpreter(machine / f"bin/python3.{NEXT + 1}", f"echo {NEXT + 1}")
    monkeypatch.setenv("PYTHON_NEWEST", str(interpreter(machine / "own", f"echo {NEXT}")))
    assert newest() == str(machine / "own")
    monkeypatch.setenv("PYTHON_NEWEST", str(interpreter(machine / "own", f"echo {sys.version_info.minor}")))
    assert newest() == ""
