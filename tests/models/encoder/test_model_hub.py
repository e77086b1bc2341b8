"""The model hub comes first, at the pinned revision: the real client against a hub on loopback, or against none."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from models.encoder import weights
from models.encoder.model_hub import HubFiles, fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = HubFiles("some/repo", COMMIT, ("config.json", "weights.bin"))
CONTENT = {"config.json": b"{}", "weights.bin": b"\0" * 10_000}
PYTHON = Path(sys.executable)


class Hub(BaseHTTPRequestHandler):
    """The two calls of a hub that a download needs."""

    asked: list[str]
    missing: str

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(None)

    def _answer(self, body: bytes | None) -> None:
        type(self).asked.append(self.path)
        start = f"/some/repo/resolve/{COMMIT}/"
        name = self.path.removeprefix(start).partition("?")[0]
        content = CONTENT.get(name) if self.path.startswith(start) and name != type(self).missing else None
        self.send_response(404 if content is None else 200)
        if content is not None:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body is None:
            self.wfile.write(content or b"")

    def log_message(self, *_arguments: object) -> None:
        """Silent."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    """A hub with two files, which the client asks; a test may take one away."""

    class Ours(Hub):
        asked: list[str] = []  # noqa: RUF012  one list a test
        missing = ""

    with ThreadingHTTPServer(("127.0.0.1", 0), Ours) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield Ours
        server.shutdown()
        thread.join()


def test_files_come_from_the_hub_at_the_pinned_commit(hub: type[Hub], tmp_path: Path) -> None:
    """Catches a fetch of whatever `main` is today."""
    assert fetch(PYTHON, FILES, tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FILES.names} == CONTENT
    assert hub.asked
    assert all(COMMIT in path for path in hub.asked)


def test_a_hub_without_a_file_is_none(hub: type[Hub], tmp_path: Path) -> None:
    """Catches half of a model taken for the whole."""
    hub.missing = "weights.bin"
    assert not fetch(PYTHON, FILES, tmp_path / "out")


def test_a_hub_out_of_reach_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches an error where another source exists."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert not fetch(PYTHON, FILES, tmp_path / "out")


def test_an_interpreter_without_the_client_is_none(tmp_path: Path) -> None:
    """Catches an image's bare Python that cannot prepare its model."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {shutil.which("python3", path="/usr/bin:/bin") or sys.executable} -S -E "$@"\n')
    bare.chmod(0o755)
    assert not fetch(bare, FILES, tmp_path / "out")


def test_every_pinned_revision_is_a_commit() -> None:
    """Catches a branch, which moves."""
    for files in (weights._ENCODER_HUB, *(model.hub for model in weights.LLMS.values())):
        assert len(files.revision) == 40
        int(files.revision, 16)
