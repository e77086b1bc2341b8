"""How an environment is made: hashes for what comes from an index, no index for what is ours, and only once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy import install
from models.llm.torch_build import CPU_BUILD, TORCH, TorchBuild


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """What pip is told to install, instead of installing it."""
    told: list[Sequence[str]] = []
    monkeypatch.setattr(install, "pip_install", lambda _python, arguments, *_: told.append(arguments))
    return told


@pytest.mark.parametrize("build", [TorchBuild(TORCH, (), ""), TorchBuild(CPU_BUILD, ("--find-links", "/w"), "")])
def test_every_index_package_is_checked_and_nothing_comes_unnamed(
    commands: list[Sequence[str]], tmp_path: Path, build: TorchBuild
) -> None:
    """Catches a dependency that pip chooses itself, and a step that needs hashes which it cannot have."""
    install.install_dependencies(Path("python"), "dev", build, tmp_path / "log")
    pins, torch = commands
    assert pins[:2] == ["--no-deps", "--require-hashes"]
    assert [Path(file).name for file in pins[3::2]] == ["worker.txt", "dev.txt"]
    assert tuple(torch) == build.arguments
    assert torch[0] == "--no-deps"


def test_our_own_are_built_without_an_index(commands: list[Sequence[str]], tmp_path: Path) -> None:
    """Catches a build that fetches a setuptools nobody pinned, and an image that points into its build stage."""
    install.install_freshet(Path("python"), True, tmp_path / "log", complete=False)
    install.install_freshet(Path("python"), False, tmp_path / "log", complete=False)
    assert commands == [
        ["--no-deps", "--no-build-isolation", "-e", "./sdk", "-e", "."],
        ["--no-deps", "--no-build-isolation", "./sdk", "."],
    ]


def test_pins_that_do_not_fit_are_found(commands: list[Sequence[str]], tmp_path: Path) -> None:
    """Catches a requirement that no pin answers, which --no-deps would hide."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho freshet-app 0.1.0 requires anyio, which is not installed.\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(SystemExit, match="make constraints"):
        install.install_freshet(python, True, tmp_path / "log", complete=True)


def test_an_environment_is_made_again_when_what_it_is_made_of_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Catches an old environment taken for a new one; which build of torch was found does not count."""

    def wanted(torch: str = "", extra: str = "dev") -> str:
        return install.fingerprint(argparse.Namespace(torch=torch, extra=extra))

    first = wanted()
    assert wanted() == first
    assert len({first, wanted(torch=TORCH), wanted(extra="worker")}) == 3
    changed = tmp_path / "worker.txt"
    changed.write_text("anyio==1\n")
    monkeypatch.setitem(install.PINS, "dev", (changed,))
    assert wanted() != first


def test_pins_are_counted_for_the_bar() -> None:
    """Catches hashes counted as packages: a bar that never moves."""
    assert 40 < install.pinned(install.WORKER) < 200


def test_an_environment_of_another_python_is_told_apart(tmp_path: Path) -> None:
    """Catches packages of 3.11 left in an environment that is to be 3.13's, and one whose Python is gone."""
    assert install.python_version(Path(sys.executable)) == sys.version
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    assert install.python_version(broken) == ""
