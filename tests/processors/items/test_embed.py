"""Item features of both tiers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from freshet.records import Claim, Item, ItemKnowledge, ItemTier
from models.encoder.aligner import LinearAligner
from models.encoder.encoder import Vectors
from processors.items.embed import ItemEmbedder
from processors.items.knowledge_text import item_text, knowledge_text
from tests.support.fakes import FakeClock

ITEM = Item(
    "i", 5, "PASTA SCE", brand="Acme", category=("food", "sauce"), attributes={"package_size": "24 OZ"}, price=2.0
)
KNOWLEDGE = ItemKnowledge(
    "i",
    5,
    6,
    "f",
    summary="Pasta sauce.",
    claims=(Claim("attribute", "type", "sauce", "SCE"), Claim("audience", "audience", "cooks", inferred=True)),
    source_partition=1,
    source_offset=8,
)


class Lengths:
    """An encoder whose vectors depend on the text alone."""

    dims, revision = 16, "lengths"

    def encode(self, texts: Sequence[str]) -> Vectors:
        rows = [np.random.default_rng(len(text)).standard_normal(16) for text in texts]
        return np.array(rows, dtype=np.float32).reshape(len(texts), 16)


def embedder() -> ItemEmbedder:
    return ItemEmbedder(Lengths(), LinearAligner.random(0, 16, 8), "v1", FakeClock(9))


def test_features_carry_their_source_tier_and_a_unit_vector() -> None:
    """Catches a vector of the wrong width or an item whose features cannot be ordered."""
    [features] = embedder().text([(ITEM, 3, 4)])
    assert (features.tier, features.version, features.event_time, features.computed_time) == (ItemTier.TEXT, "v1", 5, 9)
    assert (features.source_partition, features.source_offset) == (3, 4)
    vector = np.frombuffer(features.vector, "<f2")
    assert len(vector) == features.dims == 8
    assert np.isclose(np.linalg.norm(vector.astype(float)), 1, atol=1e-2)


def test_knowledge_takes_the_place_of_its_source_record() -> None:
    """Catches knowledge features that lose to their own text tier."""
    [features] = embedder().knowledge([(ITEM, KNOWLEDGE)])
    assert features.tier == ItemTier.KNOWLEDGE
    assert (features.event_time, features.source_partition, features.source_offset) == (5, 1, 8)


def test_templates_say_everything_but_the_price() -> None:
    """Catches a vector that moves with the price, and knowledge that is not encoded."""
    assert item_text(ITEM) == "PASTA SCE. Acme. food > sauce. package size: 24 OZ"
    assert knowledge_text(ITEM, KNOWLEDGE) == f"{item_text(ITEM)}. Pasta sauce. sauce. For cooks"


def test_no_items_no_features() -> None:
    """Catches a crash on an empty window."""
    assert embedder().text([]) == embedder().knowledge([]) == []
