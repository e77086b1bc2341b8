"""The comparison of encoder, PCA and aligner on cold items."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import evaluation.cold_items
from evaluation.cold_data import load
from evaluation.intervals import interval
from models.encoder.cold_items import ColdConfig
from tests.evaluation.cold_world import write
from tests.support.fakes_encoder import FakeEncoder

SPLIT = "1970-03-02"  # day 60


def test_the_files_hold_the_question(tmp_path: Path) -> None:
    """Catches returns counted as purchases, attributes of the whole log in a text, cold items that were known."""
    items, events, knowledge = write(tmp_path)
    data = load(items, events, knowledge, split=SPLIT, config=ColdConfig(known=50, least_baskets=3, damping=5))
    cold = [data.items[row].item_id for row in data.question.cold]
    assert len(cold) == 40
    assert all(int(item_id[1:]) % 3 == 0 for item_id in cold)
    assert not any(item.attributes for item in data.items)
    assert (data.past.times < data.split).all()
    assert not set(data.past.items) & set(data.question.cold)
    assert len(data.log.items) == sum('"purchase"' in line for line in events.read_text().splitlines())


def test_known_items_of_one_title_become_one_row(tmp_path: Path) -> None:
    """Catches a title's items counted apart, and a cold item swallowed by the known ones of its title."""
    items, events, _ = write(tmp_path)
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    for row in rows:
        row["title"] = row["title"].split()[0]
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load(
        items, events, None, split=SPLIT, config=ColdConfig(known=50, least_baskets=3, damping=5), by_title=True
    )
    assert sorted(data.items[row].title for row in data.question.known) == ["baby", "garden", "school", "tea"]
    assert len(data.question.cold) == 40


def test_an_interval_knows_its_witnesses() -> None:
    """Catches an interval that misses the mean, and forty copies of one title taken for forty witnesses."""
    values = np.random.default_rng(0).random(200)
    low, high = interval(values)
    assert low < values.mean() < high
    copies = np.repeat(values[:20], 10)
    wide = interval(copies, [str(number) for number in np.repeat(np.arange(20), 10)])
    narrow = interval(copies)
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def test_the_command_prints_every_space_of_both_tiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a missing figure, an aligner worse than the encoder on a log it can learn, output that is no JSON."""
    monkeypatch.setattr(evaluation.cold_items, "prepared_encoder", lambda *_: FakeEncoder(64))
    items, events, knowledge = (str(file) for file in write(tmp_path))
    given = ["--items", items, "--events", events, "--knowledge", knowledge, "--split", SPLIT, "--known", "50"]
    result = CliRunner().invoke(
        evaluation.cold_items.main, [*given, "--steps", "100", "--json"], env={"FRESHET_VECTORS__DIMS": "16"}
    )
    assert result.exit_code == 0, result.output
    answer = json.loads(result.output)
    for tier in ("text", "knowledge"):
        for space in ("raw", "pca", "aligned"):
            low, high = answer[f"{tier}_{space}"]["recall50_interval"]
            assert low <= answer[f"{tier}_{space}"]["recall50"] <= high
    assert answer["replacement"]["aligned"]["median_cosine"] <= 1.0001
