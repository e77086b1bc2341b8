"""Candidates for the category of an item that names none of the attribute catalogue's: the nearest by the encoder.

Owns the retrieval. Which of them it is, a model says, asked by the caller. Must not call a model itself.
"""

from __future__ import annotations

import threading
from functools import cached_property

import numpy as np

from freshet.records import Item
from models.encoder.encoder import TextEncoder, Vectors
from processors.items.attribute_catalogue import AttributeCatalogue, Category
from processors.items.knowledge_text import item_text

CANDIDATES = 5
"""Retrieved for the model to choose from: among the 5 nearest of 40 categories the right one is rarely missing."""


class CategoryFinder:
    """Categories by the encoder's nearness of an item's text to their names and attributes."""

    def __init__(self, catalogue: AttributeCatalogue, encoder: TextEncoder) -> None:
        self.catalogue = catalogue
        self._encoder = encoder
        self._lock = threading.Lock()

    def candidates(self, item: Item) -> list[Category]:
        """The nearest categories, best first. Blocks while it encodes: call it from a thread."""
        with self._lock:
            vectors = self._vectors
        near = vectors @ self._encoder.encode([item_text(item)])[0]  # (categories,)
        best = np.argsort(-near, kind="stable")[:CANDIDATES]
        return [self.catalogue.categories[row] for row in best]

    @cached_property
    def _vectors(self) -> Vectors:
        texts = [
            f"{category.name}: {', '.join(attribute.name for attribute in category.attributes)}"
            for category in self.catalogue.categories
        ]
        return self._encoder.encode(texts)
