"""Items with titles, and an encoder and aligner under which texts of the same words are the same vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.encoder.aligner import LinearAligner
from models.reasoner.catalogue import Catalogue
from models.text_diffusion.grounding import Grounder
from tests.support.fakes_encoder import FakeEncoder

TITLES = {
    "i0": "green tea",
    "i1": "tea pot",
    "i2": "honey jar",
    "i3": "camping tent",
    "i4": "sleeping bag",
    "i5": "honey spoon",
}
ENCODER = FakeEncoder(dims=64)
ALIGNER = LinearAligner.random(0, 64, 32)


def catalogue() -> Catalogue:
    vectors = ALIGNER.align(ENCODER.encode(list(TITLES.values())))
    return Catalogue(list(TITLES), vectors)


def titles(item_ids: Sequence[str]) -> list[str]:
    return [TITLES.get(item_id, item_id) for item_id in item_ids]


def grounder(threshold: float = 0.6) -> Grounder:
    return Grounder(ENCODER, ALIGNER, threshold)


def vector(text: str) -> np.ndarray:
    return ALIGNER.align(ENCODER.encode([text]))[0]
