"""The vectors a reasoner is trained on: a catalogue's texts, encoded, and the aligner fitted to them.

Owns the order encode, fit, align, and that each distinct text is encoded once. Reads and stores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from freshet.records import Item
from models.encoder.aligner import Aligner, LinearAligner
from models.encoder.encoder import TextEncoder
from models.reasoner.catalogue import Catalogue
from processors.items.knowledge_text import item_text

TEXTS_AT_ONCE = 512


def embed_catalogue(
    items: Sequence[Item],
    encoder: TextEncoder,
    dims: int,
    *,
    aligner: Aligner | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Catalogue, Aligner]:
    """A catalogue of `items` in an aligned space of `dims`, and that space's aligner.

    Without an `aligner`, PCA is fitted to distinct texts: many products share one, and their number says nothing about
    meaning. `report` hears of encoded and of all distinct texts.
    """
    if not items:
        raise ValueError("a catalogue needs at least one item")
    texts = [item_text(item) for item in items]
    distinct = sorted(set(texts), key=lambda text: (len(text), text))  # like lengths together: less padding
    encoded = []
    for begin in range(0, len(distinct), TEXTS_AT_ONCE):
        report(begin, len(distinct))
        encoded.append(encoder.encode(distinct[begin : begin + TEXTS_AT_ONCE]))
    report(len(distinct), len(distinct))
    vectors = np.concatenate(encoded)
    aligner = aligner or LinearAligner.fit_pca(vectors, dims)
    aligned = aligner.align(vectors)
    row_of = {text: row for row, text in enumerate(distinct)}
    return Catalogue([item.item_id for item in items], aligned[[row_of[text] for text in texts]]), aligner
