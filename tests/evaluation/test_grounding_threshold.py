from __future__ import annotations

import random

from evaluation.grounding_threshold import THRESHOLDS, measure, worn
from models.encoder.aligner import LinearAligner
from tests.support.fakes_encoder import FakeEncoder

TITLES = [f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("tea pot", "cake tin", "door mat")]


def test_worn_titles_find_their_item_and_foreign_lines_none() -> None:
    """Catches shares taken of the wrong lines: worn titles keep most of their words here, foreign ones share none."""
    found = measure(TITLES, FakeEncoder(dims=512), LinearAligner.random(0, 512, 256), lines=9, seed=0)
    assert set(found) == {str(threshold) for threshold in THRESHOLDS}
    assert found["0.4"]["known_grounded"] == 1.0
    assert found["0.4"]["foreign_grounded"] == 0.0
    assert 0.5 <= found["0.4"]["known_right"] <= found["0.4"]["known_grounded"]
    assert found["0.7"]["known_grounded"] <= found["0.5"]["known_grounded"]


def test_a_worn_title_has_one_word_less() -> None:
    """Catches titles that are asked for as they are stored, which any threshold would pass."""
    said = worn("RED Tea Pot", random.Random(0)).split()
    assert len(said) == 2
    assert set(said) < {"red", "tea", "pot"}
