"""What a set of 16 inferred items is worth: recall of the next 16, variety, and the user vector it enriches.

Owns these measures and their controls. Must not train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.reasoner.dataset import Dataset
from evaluation.reasoner.measures import Floats, Inferred, Tally, diversity, set_recall
from evaluation.reasoner.splits import Case
from models.reasoner.catalogue import Catalogue, Vectors
from processors.users.refresh import HALF_LIFE_EVENTS, log_vectors

Lists = Mapping[str, Sequence[Inferred]]
WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Weights tried for the inferred vector beside the log vector, both of length 1."""
RECALLED = 50


def measure_sets(tally: Tally, dataset: Dataset, cases: Sequence[Case], lists: Lists) -> None:
    """Recall@16, diversity and distinct categories of each way to fill the set, by user."""
    for name, made in lists.items():
        tally.add(f"sets.{name}.recall16", cases, set_recall(made, cases))
        tally.add(f"sets.{name}.diversity", cases, diversity(made, dataset.vectors))
        kinds = [float(dataset.categories[each.rows].any(0).sum()) for each in made]
        tally.add(f"sets.{name}.categories", cases, np.array(kinds))


def coverage(made: Sequence[Inferred], items: int) -> float:
    """Share of the catalogue that is inferred for at least one user."""
    return len(np.unique(np.concatenate([each.rows for each in made]))) / items


def measure_enrichment(tally: Tally, space: str, vectors: Vectors, cases: Sequence[Case], lists: Lists) -> None:
    """Recall@50 of the next items by cosine to the user vector: the log's alone, and with each list's added.

    `enrich.SPACE.LIST.equal` adds the two unit vectors; `...tuned` weighs the added one by what was best for the other
    half of the users.
    """
    logs = unit(history_vectors(cases, vectors)) @ vectors.T  # (U, N)
    alone = recall(logs, cases)
    tally.add(f"enrich.{space}.log.equal", cases, alone)
    tally.add(f"enrich.{space}.log.tuned", cases, alone)
    even = np.arange(len(cases)) % 2 == 0
    for name, made in lists.items():
        added = np.stack([each.confidences.astype(np.float32) @ vectors[each.rows] for each in made])
        scores = unit(added) @ vectors.T
        tried = np.stack([recall(logs + np.float32(weight) * scores, cases) for weight in WEIGHTS])  # (W, U)
        tally.add(f"enrich.{space}.{name}.equal", cases, tried[WEIGHTS.index(1.0)])
        chosen = np.where(even, tried[:, ~even].mean(1).argmax(), tried[:, even].mean(1).argmax())
        tally.add(f"enrich.{space}.{name}.tuned", cases, tried[chosen, np.arange(len(cases))])


def history_vectors(cases: Sequence[Case], vectors: Vectors) -> Vectors:
    """The log vector of each case (U, dims), as `processors.users.refresh` makes it."""
    names = [str(row) for row in range(len(vectors))]
    space = Catalogue(names, vectors)
    return log_vectors([[names[row] for row in case.history] for case in cases], space, HALF_LIFE_EVENTS)


def unit(vectors: Vectors) -> Vectors:
    """Rows of length 1; zeros stay."""
    normed: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return normed


def recall(scores: NDArray[np.float32], cases: Sequence[Case], k: int = RECALLED) -> Floats:
    """Share of each case's true items among the `k` best new ones."""
    found = np.zeros(len(cases))
    for number, (row, case) in enumerate(zip(scores, cases, strict=True)):
        mine = row.copy()
        mine[case.history] = -np.inf
        top = np.argpartition(-mine, min(k, len(mine) - 1))[:k]
        found[number] = np.isin(case.truth, top).mean()
    return found
