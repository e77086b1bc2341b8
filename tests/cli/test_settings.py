"""`freshet settings`: what is in force, where it comes from, and a file to start from."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.settings import settings, toml
from streams.settings import Settings, every_setting


def test_value_and_source_are_shown_and_secrets_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an operator who cannot tell which of three places decided, and a password on the screen."""
    file = tmp_path / "freshet.toml"
    file.write_text("[refresh]\nbatch = 64\n")
    monkeypatch.setenv("FRESHET_CONFIG", str(file))
    monkeypatch.setenv("FRESHET_REDIS", "redis://user:hunter2@host/0")
    monkeypatch.setenv("FRESHET_KAFKA__SECURITY", "sasl_ssl")
    monkeypatch.setenv("FRESHET_KAFKA__USERNAME", "u")
    monkeypatch.setenv("FRESHET_KAFKA__PASSWORD", "hunter2")
    for arguments in ([], ["--json"]):
        done = CliRunner().invoke(settings, arguments)
        assert done.exit_code == 0, done.output
        assert "hunter2" not in done.output
    rows = {row["name"]: row for row in json.loads(done.output)}
    assert (rows["refresh.batch"]["value"], rows["refresh.batch"]["source"]) == (64, str(file))
    assert (rows["kafka.password"]["value"], rows["kafka.password"]["source"]) == ("***", "FRESHET_KAFKA__PASSWORD")
    assert rows["vectors.dims"]["source"] == "default"


def test_the_file_to_start_from_changes_nothing_and_has_every_setting(tmp_path: Path) -> None:
    """Catches a printed file that does not load, or that says another default than the code has."""
    file = tmp_path / "freshet.toml"
    file.write_text(toml())
    assert Settings.load({}, file=file) == Settings()
    uncommented = "\n".join(
        line[2:] if line.startswith("# ") and " = " in line and line[2].islower() else line
        for line in toml().splitlines()
    )
    file.write_text(uncommented)
    assert Settings.load({}, file=file) == Settings()
    document = tomllib.loads(uncommented)
    flat = sum(len(value) if isinstance(value, dict) else 1 for value in document.values())
    assert flat == len(list(every_setting()))
