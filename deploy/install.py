"""Makes `.venv` and installs Freshet in it, with a progress bar; does nothing when nothing has changed.

Run by `make setup` with the machine's Python: must import nothing but the standard library. Where pip looks for
packages is pip's business (PIP_* variables); which torch is the argument's.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints" / "worker.txt"
BAR_WIDTH = 30
TAIL_LINES = 30


def fingerprint(torch: str, extra: str) -> str:
    """Changes when an installation made before is not the one wanted now."""
    digest = hashlib.sha256()
    for part in (ROOT / "pyproject.toml", ROOT / "sdk" / "pyproject.toml", CONSTRAINTS):
        digest.update(part.read_bytes())
    digest.update(f"{torch} {extra} {sys.version} {ROOT}".encode())
    return digest.hexdigest()


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


def watch_unpacking(pip: subprocess.Popen[str], python: Path, bar: Bar, pinned: int) -> None:
    """pip is silent while it unpacks: count what has arrived."""
    library = next(python.parents[1].glob("lib/python*/site-packages"))
    while pip.poll() is None:
        arrived = len(list(library.glob("*.dist-info")))
        bar.show(f"unpacked {arrived} packages", at=pinned + arrived)
        time.sleep(0.5)


def pip_install(python: Path, arguments: list[str], log: Path) -> None:
    """`pip install` with its output in `log` and its progress as a bar; ends this program when it fails."""
    pinned = sum(1 for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
    bar = Bar(2 * pinned)  # one half to fetch, one to unpack
    command = [str(python), "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check", *arguments]
    with (
        log.open("w") as lines,
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
                    watch_unpacking(pip, python, bar, pinned)
            code = pip.wait()
        except BaseException:
            pip.kill()
            raise
        finally:
            bar.close()
    if code != 0:
        tail = log.read_text().splitlines()[-TAIL_LINES:]
        print("\n".join(tail), file=sys.stderr)
        sys.exit(f"pip could not install Freshet; all it said is in {log}")


def main() -> None:
    """Make or bring up to date the virtual environment of this checkout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--torch", default="torch", help="the requirement to install torch by")
    parser.add_argument("--extra", default="dev", help="the extra of pyproject.toml to install")
    options = parser.parse_args()
    venv: Path = options.venv.absolute()
    python, stamp = venv / "bin" / "python", venv / ".installed"
    wanted = fingerprint(options.torch, options.extra)
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    began = time.monotonic()
    print(f"Setting up {os.path.relpath(venv)} (once; a few minutes)", flush=True)
    stamp.unlink(missing_ok=True)
    # An environment of another Python, or of a checkout since moved, is no base to build on.
    fresh = not python.exists() or subprocess.run([str(python), "-c", ""], check=False).returncode != 0
    subprocess.run([sys.executable, "-m", "venv", *(["--clear"] if fresh else []), str(venv)], check=True)
    pip_install(
        python,
        ["-c", str(CONSTRAINTS), options.torch, "-e", "./sdk", "-e", f".[{options.extra}]"],
        venv / "install.log",
    )
    stamp.write_text(wanted)
    print(f"Installed in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
