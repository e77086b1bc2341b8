"""Which build of torch to install, and where pip finds it. Must import nothing but the standard library.

The CPU build (190 MB) is on PyTorch's own index alone, which a company's package mirror often cannot reach; the
registry's default build for Linux brings CUDA libraries of about 3 GB, which serve no purpose without a GPU but work.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

VERSION = "2.13.0"
TORCH = f"torch=={VERSION}"
CPU_BUILD = f"{TORCH}+cpu"
INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_S = 5.0
# Beside a checkout, for machines that cannot reach the index.
WHEELS = Path(__file__).resolve().parents[3] / "shared" / "wheels"
DEFAULT_PINS = Path(__file__).with_name("torch.txt")


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """A requirement, pip's options to find it, and a line for whoever waits for it.

    `pip` is empty where the registry that pip asks anyhow has it.
    """

    requirement: str
    pip: tuple[str, ...]
    about: str

    @property
    def cpu(self) -> bool:
        """Whether it comes without CUDA libraries."""
        return self.requirement.endswith("+cpu")

    @property
    def arguments(self) -> tuple[str, ...]:
        """What follows `pip install`: nothing but torch, and the CUDA libraries where it needs them.

        The default build and its libraries are checked against pinned hashes. The CPU build is not: each platform
        has another one, and only its own index knows their hashes (pip checks them there).
        """
        if self.requirement == TORCH:
            return ("--no-deps", "--require-hashes", "--requirement", str(DEFAULT_PINS))
        # What the CPU build depends on is in everybody's pins; another build asked for brings what it needs.
        return (*(("--no-deps",) if self.cpu else ()), *self.pip, self.requirement)


def answers(url: str, timeout_s: float = PROBE_S) -> bool:
    """Whether `url` answers a GET with success within seconds, resolving its name included."""
    found: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=timeout_s) as answer:
                found.append(answer.status == 200)
        except (urllib.error.URLError, OSError, ValueError):
            found.append(False)

    # urlopen's timeout does not cover the look-up of the name: hence a thread that can be left behind.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout_s)
    return found == [True]


def holds_cpu_build(folder: Path) -> bool:
    """Whether a folder has the CPU build's wheel for this Python and machine."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    names = [path.name for path in folder.glob(f"torch-{VERSION}+cpu-{tag}-*.whl")]
    return any(platform.machine() in name for name in names)


def choose(
    wanted: str = "", *, folders: Sequence[Path] | None = None, probe: Callable[[str], bool] = answers
) -> TorchBuild:
    """The build to install: `wanted` as it is; else the CPU build from a folder, else from PyTorch's index if that
    answers, else the registry's default build.

    `folders` are those of PIP_FIND_LINKS and `WHEELS` unless given. TORCH_INDEX names an index to ask instead of
    PyTorch's own.
    """
    if wanted:
        return TorchBuild(wanted, (), f"{wanted}, as asked for")
    if folders is None:
        folders = [*map(Path, os.environ.get("PIP_FIND_LINKS", "").split()), WHEELS]
    for folder in folders:
        if holds_cpu_build(folder):
            return TorchBuild(CPU_BUILD, ("--find-links", str(folder)), f"{CPU_BUILD} from {folder}")
    index = os.environ.get("TORCH_INDEX") or INDEX
    if probe(f"{index}/torch/"):
        return TorchBuild(CPU_BUILD, ("--extra-index-url", index), f"{CPU_BUILD} (190 MB) from {index}")
    about = f"{TORCH}, the registry's default build: about 3 GB with its CUDA libraries, as {index} does not answer"
    return TorchBuild(TORCH, (), about)
