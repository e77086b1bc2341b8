from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from freshet.records import Item
from processors.items.embed_catalogue import embed_catalogue


class LetterEncoder:
    """Counts letters; remembers what it was asked."""

    dims = 26
    revision = "letters"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        counts = np.array([[text.lower().count(chr(97 + c)) for c in range(26)] for text in texts], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def item(item_id: str, title: str) -> Item:
    return Item(item_id=item_id, event_time=0, title=title)


ITEMS = [item("1", "milk"), item("2", "bread"), item("3", "milk"), item("4", "soap")]


def test_each_distinct_text_is_encoded_once_and_every_item_has_its_vector():
    encoder = LetterEncoder()
    heard: list[tuple[int, int]] = []
    catalogue, aligner = embed_catalogue(ITEMS, encoder, 8, report=lambda done, total: heard.append((done, total)))
    assert sorted(encoder.asked) == ["bread", "milk", "soap"]
    assert heard[-1] == (3, 3)
    vectors, present = catalogue.get(["1", "2", "3", "4"])
    assert present.all()
    np.testing.assert_allclose(vectors, aligner.align(encoder.encode(["milk", "bread", "milk", "soap"])), atol=1e-6)
    assert catalogue.dims == aligner.dims == 8


def test_an_empty_catalogue_is_refused():
    with pytest.raises(ValueError, match="at least one item"):
        embed_catalogue([], LetterEncoder(), 8)
