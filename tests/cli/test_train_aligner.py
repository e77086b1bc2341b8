"""`freshet train aligner` and who uses what it made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import streams.jobs.training
from cli import main
from models.encoder.aligner import LinearAligner, load_aligner
from models.reasoner.training.config import TrainingError
from streams.jobs.training import trained_aligner
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.evaluation.cold_world import write
from tests.support.fakes_encoder import FakeEncoder


def test_the_command_makes_the_file_workers_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an aligner saved where nobody looks, a width of its own, or returns learned from."""
    monkeypatch.setattr(streams.jobs.training, "prepared_encoder", lambda *_: FakeEncoder(64))
    items, events, knowledge = (str(file) for file in write(tmp_path))
    given = ["train", "aligner", "--events", events, "--items", items, "--knowledge", knowledge]
    env = {"FRESHET_HOME": str(tmp_path / "home"), "FRESHET_VECTORS__DIMS": "16"}
    result = CliRunner().invoke(main, [*given, "--event-type", "purchase", "--steps", "40", "--json"], env=env)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.output)
    assert answer["with_knowledge"] == answer["items"] == 120
    assert answer["recall50"] >= answer["pca_recall50"]
    resources = Resources(Settings.load(env))
    assert resources.aligner.revision == load_aligner(Path(answer["aligner"])).revision == answer["revision"]
    assert trained_aligner(resources.settings) is not None


def test_a_log_about_nothing_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback where the two files do not belong together."""
    monkeypatch.setattr(streams.jobs.training, "prepared_encoder", lambda *_: FakeEncoder(64))
    items, events, _ = write(tmp_path)
    items.write_text('{"item_id": "stranger", "title": "x"}\n')
    result = CliRunner().invoke(main, ["train", "aligner", "--events", str(events), "--items", str(items)])
    assert result.exit_code == 1
    assert "events is about one of the 1 items" in result.output


def test_a_named_file_must_be_there_and_fit(tmp_path: Path) -> None:
    """Catches a reasoner quietly trained in another space than the one that was asked for."""
    settings = Settings.load({"FRESHET_HOME": str(tmp_path), "FRESHET_VECTORS__DIMS": "16"})
    assert trained_aligner(settings) is None
    with pytest.raises(TrainingError, match=r"missing\.safetensors"):
        trained_aligner(settings, tmp_path / "missing.safetensors")
    LinearAligner.random(0, 32, 8).save(tmp_path / "narrow.safetensors")
    with pytest.raises(TrainingError, match="makes 8 dimensions, FRESHET_VECTORS__DIMS is 16"):
        trained_aligner(settings, tmp_path / "narrow.safetensors")
