"""`freshet train reasoner`: how a training begins, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import streams.jobs.training
from cli import main
from models.encoder.aligner import LinearAligner, load_aligner
from models.reasoner import checkpoint
from tests.evaluation.cold_world import write
from tests.support.fakes_encoder import FakeEncoder


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(streams.jobs.training, "prepared_encoder", lambda *_: FakeEncoder(64))
    items, events, _ = write(tmp_path)
    return ["--events", str(events), "--items", str(items)]


def train(folder: Path, files: list[str], *options: str) -> Result:
    env = {"FRESHET_HOME": str(folder / "home"), "FRESHET_VECTORS__DIMS": "16"}
    return CliRunner().invoke(main, ["train", "reasoner", *files, "--steps", "12", *options], env=env)


def answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    made: dict[str, Any] = json.loads(result.output)
    return made


def test_a_checkpoint_begins_where_another_ended_and_in_its_space(tmp_path: Path, files: list[str]) -> None:
    """Catches a warm start in another vector space, and options that reach nobody."""
    first = answer(train(tmp_path, files, "--json", "--out", str(tmp_path / "one"), "--patience", "0"))
    assert (first["resumed_at"], first["steps"]) == (0, 12)
    (tmp_path / "home").mkdir(exist_ok=True)
    LinearAligner.random(3, 64, 16).save(tmp_path / "home" / "aligner.safetensors")
    second = answer(
        train(tmp_path, files, "--json", "--out", str(tmp_path / "two"), "--warm-start", first["checkpoint"])
    )
    one, two = (checkpoint.load(Path(made["checkpoint"])) for made in (first, second))
    spaces = [load_aligner(Path(made["checkpoint"]) / checkpoint.ALIGNER).revision for made in (first, second)]
    assert spaces[0] == spaces[1]
    assert two.revision != one.revision
    assert two.metrics["train_loss"] < one.metrics["train_loss"]


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_nothing_to_begin_from_is_one_sentence(tmp_path: Path, files: list[str], folder: str) -> None:
    """Catches a traceback, and a training that quietly begins at random."""
    (tmp_path / "empty").mkdir()
    result = train(tmp_path, files, "--warm-start", str(tmp_path / folder))
    assert result.exit_code == 1
    assert "no reasoner checkpoint in" in result.output
    assert not (tmp_path / "home" / "reasoner").exists()


def test_another_space_than_the_checkpoints_is_refused(tmp_path: Path, files: list[str]) -> None:
    """Catches id embeddings of one space on vectors of another."""
    first = answer(train(tmp_path, files, "--json", "--out", str(tmp_path / "one")))
    LinearAligner.random(3, 64, 16).save(tmp_path / "other.safetensors")
    given = ["--aligner", str(tmp_path / "other.safetensors"), "--warm-start", first["checkpoint"]]
    result = train(tmp_path, files, *given)
    assert result.exit_code == 1
    assert "another vector space" in result.output


def test_without_neighbors_the_checkpoint_has_none(tmp_path: Path, files: list[str]) -> None:
    """Catches an option that is only accepted."""
    with_them = answer(train(tmp_path, files, "--json", "--out", str(tmp_path / "one")))
    without = answer(train(tmp_path, files, "--json", "--out", str(tmp_path / "two"), "--no-neighbors"))
    assert checkpoint.load(Path(with_them["checkpoint"])).neighbors is not None
    assert checkpoint.load(Path(without["checkpoint"])).neighbors is None
    assert without["neighbors"] is None


def test_what_a_person_reads(tmp_path: Path, files: list[str]) -> None:
    """Catches keys renamed on one side."""
    result = train(tmp_path, files)
    assert result.exit_code == 0, result.output
    assert "12 steps" in result.output
    assert "next: `freshet worker` loads it" in result.output
