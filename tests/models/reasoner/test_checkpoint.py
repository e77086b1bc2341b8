from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.reasoner.checkpoint import CheckpointError, is_checkpoint, load, save
from models.reasoner.sampler import SlotPlan
from tests.models.reasoner.reasoner_tools import checkpoint


def test_a_checkpoint_comes_back_whole(tmp_path: Path):
    made = checkpoint(12)
    save(made, tmp_path / "c", lambda folder: (folder / "extra").write_text("here") and None)
    read = load(tmp_path / "c")
    assert read.item_ids == made.item_ids
    np.testing.assert_array_equal(read.vectors, made.vectors)
    for name, tensor in made.network.state_dict().items():
        assert torch.equal(tensor, read.network.state_dict()[name])
    assert (tmp_path / "c" / "extra").read_text() == "here"
    assert len(read.revision) == 12
    assert read.catalogue().rows(["i11"]).tolist() == [11]


def test_the_sampler_s_plan_comes_back_and_older_checkpoints_have_the_defaults(tmp_path: Path):
    """Catches a plan that is lost on the way to the worker, and a checkpoint of last month that no longer loads."""
    folder = tmp_path / "c"
    save(replace(checkpoint(12), plan=SlotPlan(steps=4, schedule="entropy", bound=0.5, between=2)), folder)
    assert load(folder).plan == SlotPlan(steps=4, schedule="entropy", bound=0.5, between=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sampler": {"schedule": "fast"}}))
    with pytest.raises(CheckpointError, match="no schedule 'fast': one of fixed, confidence, entropy"):
        load(folder)
    del config["sampler"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder).plan == SlotPlan()


def test_a_new_checkpoint_replaces_the_old_and_leaves_nothing_behind(tmp_path: Path):
    save(checkpoint(12, seed=1), tmp_path / "c")
    old = load(tmp_path / "c").revision
    save(checkpoint(7, seed=2), tmp_path / "c")
    assert load(tmp_path / "c").revision != old
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_failure_leaves_the_old_checkpoint(tmp_path: Path):
    save(checkpoint(12), tmp_path / "c")

    def fail(_folder: Path) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save(checkpoint(7), tmp_path / "c", fail)
    assert len(load(tmp_path / "c").item_ids) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_what_is_no_checkpoint_is_named(tmp_path: Path):
    assert not is_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="freshet train reasoner"):
        load(tmp_path)
    save(checkpoint(12), tmp_path / "c")
    (tmp_path / "c" / "item_ids.json").write_text('["only one"]')
    with pytest.raises(CheckpointError, match="do not fit"):
        load(tmp_path / "c")
    (tmp_path / "c" / "reasoner.safetensors").unlink()
    with pytest.raises(CheckpointError, match="whole"):
        load(tmp_path / "c")
