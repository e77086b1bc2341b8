"""Whether knowledge pays, on shops where it must and where it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import evaluation.value
from evaluation.arms import companions, shuffled
from freshet.records import Item, ItemKnowledge
from models.encoder.cold_items import ColdItems
from models.encoder.pairs import Pairs
from tests.evaluation.cold_world import write
from tests.support.fakes_encoder import FakeEncoder


def ways(folder: Path, monkeypatch: pytest.MonkeyPatch, *, opaque: bool) -> dict[str, Any]:
    monkeypatch.setattr(evaluation.value, "prepared_encoder", lambda *_: FakeEncoder(64))
    items, events, knowledge = (str(file) for file in write(folder, opaque=opaque))
    options = ["--split", "1970-03-02", "--known", "80", "--least-baskets", "3", "--damping", "5", "--steps", "60"]
    result = CliRunner().invoke(
        evaluation.value.main,
        ["--items", items, "--events", events, "--knowledge", knowledge, *options, "--json"],
        env={"FRESHET_VECTORS__DIMS": "16"},
    )
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)["ways"]
    return found


def test_knowledge_pays_where_titles_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches knowledge that never reaches the score, and a shuffled control that keeps the gain."""
    found = ways(tmp_path, monkeypatch, opaque=True)
    gain = found["title + knowledge, joined"]["recall50_over_title"]
    assert gain["interval"][0] > 0.1
    assert found["title + shuffled, joined"]["recall50_over_title"]["gain"] < gain["gain"] / 2
    assert found["title + knowledge vocabulary"]["recall50_over_title"]["gain"] > 0
    assert found["head: title + knowledge"]["recall50_over_same_without"]["gain"] > 0


def test_knowledge_that_repeats_the_title_pays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a comparison that finds a gain where there is nothing to gain."""
    found = ways(tmp_path, monkeypatch, opaque=False)
    assert abs(found["title + knowledge, joined"]["recall50_over_title"]["gain"]) < 0.05


def test_every_title_gets_another_ones_knowledge() -> None:
    """Catches a control in which some items keep what they know."""
    items = [Item(item_id=str(n), event_time=0, title=f"t{n // 2}") for n in range(10)]
    given = {item.item_id: ItemKnowledge(item.item_id, 0, 0, "f", summary=item.title) for item in items}
    wrong = shuffled(items, given, seed=3)
    assert all(wrong[item.item_id].summary != item.title for item in items)
    assert sorted({made.summary for made in wrong.values()}) == sorted({item.title for item in items})


def test_companions_are_what_the_nearest_were_bought_with() -> None:
    """Catches the nearest item itself scored as its own companion, or pairs of rows taken for places."""
    question = ColdItems(np.array([5]), np.arange(11)[::-1][:11], np.zeros((1, 11), dtype=np.bool_))
    pairs = Pairs(np.array([3, 7]), np.array([7, 3]), np.array([4, 4]), np.full(12, 5))
    near = np.zeros((1, 11))
    near[0, 10 - 3] = 1.0  # row 3
    scores = companions(near, pairs, question)
    assert scores[0].argmax() == 10 - 7
    assert scores[0, 10 - 3] == 0
