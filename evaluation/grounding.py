"""How a text reasoner's threshold parts words the catalogue knows from words it does not.

Owns that measurement: `python -m evaluation.grounding --items FILE`. Two kinds of lines are grounded by the real
encoder: items' own titles, worn (lower case, one word less, in another order), which should find their item, and things
that no shop of household goods sells, which should find none. It says nothing of how well a model infers.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.encoder.aligner import Aligner, LinearAligner
from models.encoder.encoder import TextEncoder, prepared_encoder
from schemas.files import read_items
from streams.settings import Settings

THRESHOLDS = (0.4, 0.5, 0.55, 0.6, 0.7)
ELSEWHERE = [
    "flight to Lisbon",
    "car insurance",
    "yoga class",
    "running shoes",
    "laptop stand",
    "dentist appointment",
    "cat food",
    "gym membership",
    "mortgage advice",
    "wireless headphones",
    "hotel in Rome",
    "swimming lessons",
    "winter tyres",
    "baby stroller",
    "tax software",
    "guitar strings",
    "protein powder",
    "concert tickets",
    "house cleaning",
    "phone contract",
]


def worn(title: str, rng: random.Random) -> str:
    """A title as somebody who remembers it would put it."""
    words = title.lower().split()
    if len(words) > 2:
        words.pop(rng.randrange(len(words)))
    rng.shuffle(words)
    return " ".join(words)


def measure(titles: Sequence[str], encoder: TextEncoder, aligner: Aligner, *, lines: int, seed: int) -> dict[str, Any]:
    """Shares by threshold: worn titles that find an item, that find theirs, and foreign lines that find one."""
    rng = random.Random(seed)
    items = aligner.align(encoder.encode(titles))  # (N, dims)
    asked = rng.sample(range(len(titles)), min(lines, len(titles)))
    known = aligner.align(encoder.encode([worn(titles[row], rng) for row in asked])) @ items.T  # (L, N)
    foreign = aligner.align(encoder.encode(list(ELSEWHERE))) @ items.T
    right = known.argmax(axis=1) == np.array(asked)
    return {
        str(threshold): {
            "known_grounded": round(float((known.max(axis=1) >= threshold).mean()), 3),
            "known_right": round(float(((known.max(axis=1) >= threshold) & right).mean()), 3),
            "foreign_grounded": round(float((foreign.max(axis=1) >= threshold).mean()), 3),
        }
        for threshold in THRESHOLDS
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure with a random and with a fitted aligner; print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=1_500, help="items, drawn by --seed")
    parser.add_argument("--lines", type=int, default=300, help="worn titles")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    settings = Settings.load()
    titles = sorted({item.title for item in read_items(options.items, default_time=0)})
    titles = random.Random(options.seed).sample(titles, min(options.limit, len(titles)))
    encoder = prepared_encoder(settings.encoder, settings.home)
    aligners = {
        "random": LinearAligner.random(0, encoder.dims, settings.vectors.dims),
        "pca": LinearAligner.fit_pca(encoder.encode(titles), settings.vectors.dims),
    }
    found = {
        name: measure(titles, encoder, aligner, lines=options.lines, seed=options.seed)
        for name, aligner in aligners.items()
    }
    print(f"{'aligner':8s} {'threshold':>9s} {'known grounded':>15s} {'known right':>12s} {'foreign grounded':>17s}")
    for name, rows in found.items():
        for threshold, row in rows.items():
            shares = row["known_grounded"], row["known_right"], row["foreign_grounded"]
            print(f"{name:8s} {threshold:>9s} {shares[0]:15.3f} {shares[1]:12.3f} {shares[2]:17.3f}")
    print(json.dumps({"items": len(titles), **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
