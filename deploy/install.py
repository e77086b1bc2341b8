"""Makes a virtual environment and installs Freshet in it, with a progress bar; does nothing when nothing has changed.

Run by `make setup` and the Dockerfile with the machine's Python: must import nothing but the standard library. Where
pip looks for packages is pip's business (PIP_* variables). Every package is pinned and checked against its hashes, in
steps, since pip wants hashes for all it installs at once or for nothing: pins; torch; our own two distributions.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from models.llm.torch_build import DEFAULT_PINS, TorchBuild, choose  # noqa: E402  nothing is installed yet

WORKER, DEV = ROOT / "constraints" / "worker.txt", ROOT / "constraints" / "dev.txt"
PINS = {"worker": (WORKER,), "dev": (WORKER, DEV)}
"""What each extra that can be installed is pinned by."""
NO_TORCH = "none"
BAR_WIDTH = 30
TAIL_LINES = 30


def fingerprint(options: argparse.Namespace) -> str:
    """Changes when an installation made before is not the one wanted now.

    Which build of torch was chosen is not in it: an index that answers today and not tomorrow changes nothing.
    """
    digest = hashlib.sha256()
    for part in (ROOT / "pyproject.toml", ROOT / "sdk" / "pyproject.toml", *PINS[options.extra], DEFAULT_PINS):
        digest.update(part.read_bytes())
    digest.update(f"{options.torch} {options.extra} {sys.version} {ROOT}".encode())
    return digest.hexdigest()


def pinned(file: Path) -> int:
    """How many packages a file pins."""
    return sum(1 for line in file.read_text().splitlines() if re.match(r"[A-Za-z0-9._-]+==", line))


class Bar:
    """One line that moves on a terminal; a line now and then in a log."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._began = time.monotonic()
        self._shown_quarter = -1
        self._terminal = sys.stdout.isatty()

    def show(self, text: str, *, step: int = 0, at: int = 0) -> None:
        """Advance by `step`, or to `at`, and show `text` beside the bar."""
        self._done = min(max(self._done + step, at), self._total)
        share = self._done / self._total
        seconds = int(time.monotonic() - self._began)
        if self._terminal:
            filled = int(BAR_WIDTH * share)
            bar = "━" * filled + " " * (BAR_WIDTH - filled)
            width = shutil.get_terminal_size().columns - BAR_WIDTH - 18
            print(f"\r\x1b[2K{bar} {share:4.0%} {seconds:4d} s  {text[:width]}", end="", flush=True)
        elif int(4 * share) > self._shown_quarter:
            self._shown_quarter = int(4 * share)
            print(f"{share:4.0%} {seconds:4d} s  {text}", flush=True)

    def close(self) -> None:
        if self._terminal:
            print("\r\x1b[2K", end="")


def watch_unpacking(pip: subprocess.Popen[str], python: Path, bar: Bar, total: int) -> None:
    """pip is silent while it unpacks: count what has arrived."""
    library = next(python.parents[1].glob("lib/python*/site-packages"))
    before = len(list(library.glob("*.dist-info")))
    while pip.poll() is None:
        arrived = len(list(library.glob("*.dist-info"))) - before
        bar.show(f"unpacked {arrived} packages", at=total + arrived)
        time.sleep(0.5)


def pip_install(python: Path, arguments: Sequence[str], log: Path, total: int) -> None:
    """`pip install` of about `total` packages with its output in `log` and its progress as a bar; ends this program
    when it fails."""
    bar = Bar(2 * total)  # one half to fetch, one to unpack
    command = [str(python), "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check", *arguments]
    with (
        log.open("a") as lines,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as pip,
    ):
        assert pip.stdout is not None
        try:
            for line in pip.stdout:
                lines.write(line)
                lines.flush()
                words = line.split()
                if words[:1] == ["Collecting"]:
                    bar.show(words[1], step=1)
                elif words[:1] == ["Downloading"]:
                    bar.show(" ".join(words[1:]))
                elif words[:3] == ["Installing", "collected", "packages:"]:
                    watch_unpacking(pip, python, bar, total)
            code = pip.wait()
        except BaseException:
            pip.kill()
            raise
        finally:
            bar.close()
    if code != 0:
        fail("pip could not install Freshet", log)


def fail(what: str, log: Path) -> NoReturn:
    """End with the last lines of the log."""
    print("\n".join(log.read_text().splitlines()[-TAIL_LINES:]), file=sys.stderr)
    sys.exit(f"{what}; all of it is in {log}")


def install_dependencies(python: Path, extra: str, torch: TorchBuild | None, log: Path) -> None:
    """Everything but our own: pins with their hashes, then torch."""
    files = PINS[extra]
    wanted = [word for file in files for word in ("--requirement", str(file))]
    pip_install(python, ["--no-deps", "--require-hashes", *wanted], log, sum(map(pinned, files)))
    if torch is not None:
        print(f"Installing {torch.about}", flush=True)
        pip_install(python, torch.arguments, log, 1 if torch.cpu else pinned(DEFAULT_PINS))


def install_freshet(python: Path, editable: bool, log: Path, *, complete: bool) -> None:
    """Our two distributions, built with the pinned setuptools, and a look whether anything they require is missing."""
    folders = [word for folder in ("./sdk", ".") for word in (*(("-e",) if editable else ()), folder)]
    pip_install(python, ["--no-deps", "--no-build-isolation", *folders], log, 2)
    # --no-deps would hide a requirement that nobody pinned; without torch something is missing on purpose.
    if complete:
        with log.open("a") as lines:
            check = [str(python), "-m", "pip", "check"]
            if subprocess.run(check, stdout=lines, stderr=subprocess.STDOUT, check=False).returncode:
                fail("the pins do not fit pyproject.toml: make constraints", log)


def python_version(python: Path) -> str:
    """The `sys.version` of an interpreter, empty where it does not run."""
    command = [str(python), "-c", "import sys; print(sys.version, end='')"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--torch", default="", help=f"the requirement to install torch by, or {NO_TORCH!r}")
    parser.add_argument("--extra", default="dev", choices=sorted(PINS), help="the extra of pyproject.toml to install")
    parser.add_argument(
        "--step",
        choices=("dependencies", "freshet"),
        help="one half alone, not editable: an image's heavy layer, and the one that changes with the code",
    )
    return parser.parse_args()


def main() -> None:
    """Make or bring up to date a virtual environment."""
    options = arguments()
    venv: Path = options.venv.absolute()
    python, stamp, log = venv / "bin" / "python", venv / ".installed", venv / "install.log"
    wanted = fingerprint(options) if options.step is None else ""
    if wanted and python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    began = time.monotonic()
    print(f"Setting up {os.path.relpath(venv)} (once; a few minutes)", flush=True)
    stamp.unlink(missing_ok=True)
    # An environment of another Python, or of a checkout since moved, is no base to build on.
    keep = python.exists() and python_version(python) == sys.version
    subprocess.run([sys.executable, "-m", "venv", *([] if keep else ["--clear"]), str(venv)], check=True)
    log.unlink(missing_ok=True)
    complete = options.torch != NO_TORCH
    if options.step != "freshet":
        torch = choose(options.torch) if complete else None
        install_dependencies(python, options.extra, torch, log)
    if options.step != "dependencies":
        install_freshet(python, options.step is None, log, complete=complete)
    if wanted:
        stamp.write_text(wanted)
    print(f"Installed in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
