"""`freshet evaluate reasoner` as a script and a person see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import models.encoder.backends
from cli import main
from models.encoder.aligner_training import AlignerConfig
from models.encoder.contrastive import HeadConfig
from tests.evaluation.successor_world import write
from tests.support.fakes_encoder import FakeEncoder

QUICK = ["--train-steps", "12", "--set", "width=16", "--set", "batch=8", "--set", "window=16", "--seeds", "0,1"]


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.encoder.backends, "prepared_encoder", lambda *_: FakeEncoder(32))
    monkeypatch.setattr("evaluation.reasoner.tuning.SASREC_GRID", {"learning_rate": (3e-3, 6e-3)})
    monkeypatch.setattr("evaluation.reasoner.evaluation.LEAST_SET_USERS", 5)
    monkeypatch.setattr("evaluation.reasoner.dataset.ALIGNER", AlignerConfig(head=HeadConfig(steps=5, batch=16)))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    events, items = write(tmp_path, users=60, longest=9)
    return ["evaluate", "reasoner", "--events", str(events), "--items", str(items)]


def holds(figure: dict[str, Any]) -> bool:
    low, high = figure["interval"]
    return bool(low <= figure["value"] <= high)


def test_the_last_line_is_the_answer(files: list[str], tmp_path: Path) -> None:
    """Catches a key that a script waits for in vain, a figure outside its interval, and plots that are not there."""
    arguments = [*files, *QUICK, "--steps", "1,4", "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(main, arguments, env={"FRESHET_VECTORS__DIMS": "16"})
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    baselines = {"popularity", "knn", "cooccurrence", "text_knn", "sasrec"}
    ours = {"network", "ours", "ours_1", "ours_4", "ensemble", "sasrec_ensemble"}
    for models_ in (found["models"], found["time_split"]["models"]):
        assert set(models_) == baselines | ours
        for each in models_.values():
            assert set(each) == {"hr10", "hr10_interval", "ndcg10", "ndcg10_interval"}
    pairs = ("ours_minus_sasrec", "network_minus_sasrec", "ours_minus_sasrec_ensemble", "ensemble_minus_knn")
    for name in (*(f"{pair}_ndcg10" for pair in pairs), "cold_ours_over_textknn"):
        assert holds(found[name])
    assert found["seeds"] == [0, 1]
    assert set(found["cold"]) == {"ours", "text_knn"}
    assert set(found["enrichment"]) == {"text", "aligned", "network"}
    arms = {"log", "ours_1", "ours_4", "next_item", "cooccurrence", "popularity", "random"}
    assert set(found["enrichment"]["aligned"]) == arms
    assert {"ours_1", "ours_4", "cooccurrence", "popularity", "random_category"} <= set(found["hidden_category"])
    assert "sets.ours_4.recall16" in found["steps_over_one"]
    assert any(one["what"].startswith("SASRec: ") for one in found["settings"]["tried"])
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == found
    for name in ("models", "steps", "enrichment", "held_out"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_person_sees_tables_and_what_to_do_next(files: list[str]) -> None:
    """Catches a table without its intervals, and stages that run though they were not asked for."""
    arguments = [*files, *QUICK, "--seeds", "0", "--steps", "1", "--stages", "held", "--no-tuning"]
    done = CliRunner().invoke(main, arguments, env={"FRESHET_VECTORS__DIMS": "16"})
    assert done.exit_code == 0, done.output
    assert "leave last out" in done.stdout
    assert "cold_ours_over_textknn" in done.stdout
    assert "time split" not in done.stdout
    assert "next:" in done.stdout


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--seeds", "0,x"], "whole numbers"),
        (["--seeds", "1,1"], "each number once"),
        (["--steps", "2,4"], "must hold 1"),
        (["--stages", "cold"], "no stage cold"),
        (["--set", "widht=3"], "there is"),
        (["--set", "width=wide"], "wanted a int"),
    ],
)
def test_a_wrong_option_names_itself(files: list[str], wrong: list[str], message: str) -> None:
    """Catches a typing error that is found out after an hour, or never."""
    done = CliRunner().invoke(main, [*files, *wrong])
    assert done.exit_code == 2
    assert message in done.output
