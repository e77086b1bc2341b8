"""What the aligner is trained on: an item's text and, where it has some, its knowledge, both encoded.

Owns that each distinct text is encoded once, like lengths together. Reads and stores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from freshet.records import Item, ItemKnowledge
from models.encoder.contrastive import Texts
from models.encoder.encoder import TextEncoder, Vectors
from processors.items.knowledge_text import item_text, knowledge_text

TEXTS_AT_ONCE = 512


def encoded_texts(
    items: Sequence[Item],
    knowledge: Mapping[str, ItemKnowledge],
    encoder: TextEncoder,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Texts:
    """Texts of `items`, row by row; `knowledge` by item id. `report` hears of encoded and of all distinct texts."""
    item_texts = [item_text(item) for item in items]
    there = np.array([item.item_id in knowledge for item in items], dtype=np.bool_)
    knowledge_texts = [
        knowledge_text(item, knowledge[item.item_id]) if item.item_id in knowledge else text_of_item
        for item, text_of_item in zip(items, item_texts, strict=True)
    ]
    distinct = sorted({*item_texts, *knowledge_texts}, key=lambda text: (len(text), text))
    encoded: list[Vectors] = []
    for begin in range(0, len(distinct), TEXTS_AT_ONCE):
        report(begin, len(distinct))
        encoded.append(encoder.encode(distinct[begin : begin + TEXTS_AT_ONCE]))
    report(len(distinct), len(distinct))
    vectors = np.concatenate(encoded)
    row = {text: number for number, text in enumerate(distinct)}
    return Texts(vectors[[row[text] for text in item_texts]], vectors[[row[text] for text in knowledge_texts]], there)
