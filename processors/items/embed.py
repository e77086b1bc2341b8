"""Items into vectors of one feature version: from their text at once, from their knowledge seconds later.

Owns which text is encoded for which tier and how a vector is packed. Must not load an encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from freshet.records import Item, ItemFeatures, ItemKnowledge, ItemTier
from models.encoder.aligner import Aligner
from models.encoder.encoder import TextEncoder, Vectors
from processors.items.knowledge_text import item_text, knowledge_text

SourcedItem = tuple[Item, int, int]
"""An item with the partition and offset of the record it came in."""


class ItemEmbedder:
    """Makes item features; both tiers in one space, so that a replacement moves an item little.

    `clock` gives milliseconds since the epoch. Blocks while it computes: call it from a thread.
    """

    def __init__(self, encoder: TextEncoder, aligner: Aligner, version: str, clock: Callable[[], int]) -> None:
        self._encoder = encoder
        self._aligner = aligner
        self._version = version
        self._clock = clock

    def text(self, items: Sequence[SourcedItem]) -> list[ItemFeatures]:
        """Text-tier features, in order."""
        vectors = self._vectors([item_text(item) for item, _, _ in items])
        return [
            self._features(item, vector, ItemTier.TEXT, partition, offset)
            for (item, partition, offset), vector in zip(items, vectors, strict=True)
        ]

    def knowledge(self, pairs: Sequence[tuple[Item, ItemKnowledge]]) -> list[ItemFeatures]:
        """Knowledge-tier features, in order; positions are those of the knowledge."""
        vectors = self._vectors([knowledge_text(item, knowledge) for item, knowledge in pairs])
        return [
            self._features(item, vector, ItemTier.KNOWLEDGE, knowledge.source_partition, knowledge.source_offset)
            for (item, knowledge), vector in zip(pairs, vectors, strict=True)
        ]

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        return self._aligner.align(self._encoder.encode(texts))  # (N, dims)

    def _features(self, item: Item, vector: Vectors, tier: ItemTier, partition: int, offset: int) -> ItemFeatures:
        return ItemFeatures(
            item_id=item.item_id,
            version=self._version,
            tier=int(tier),
            event_time=item.event_time,
            computed_time=self._clock(),
            dims=len(vector),
            vector=vector.astype("<f2").tobytes(),
            source_partition=partition,
            source_offset=offset,
        )
