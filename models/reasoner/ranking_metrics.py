"""How well scores rank held-out items: hit rate and NDCG over the full ranking, at item level.

Owns the measures and the plain baselines a reasoner has to beat. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.reasoner.sequences import Question

Scores = NDArray[np.float32]
Scorer = Callable[[Sequence[Question]], Scores]
"""Scores (Q, N) of all items for some questions; the caller owns the result."""


def ranking_metrics(
    questions: Sequence[Question], scorer: Scorer, *, novel: bool, batch: int = 128
) -> dict[str, float]:
    """`hr10` and `ndcg10` over the full ranking; with `novel`, items of the history are taken out first.

    Equal scores count against the target half and half, so that a constant scorer gets no credit for order.
    """
    hits: list[float] = []
    gains: list[float] = []
    for begin in range(0, len(questions), batch):
        part = questions[begin : begin + batch]
        scores = scorer(part)
        for question, row in zip(part, scores, strict=True):
            if novel:
                row[question.history] = -np.inf
            target = row[question.target]
            rank = float((row > target).sum() + ((row == target).sum() - 1) / 2)
            hits.append(float(rank < 10))
            gains.append(1.0 / np.log2(rank + 2.0) if rank < 10 else 0.0)
    if not hits:
        return {"hr10": 0.0, "ndcg10": 0.0}
    return {"hr10": round(float(np.mean(hits)), 5), "ndcg10": round(float(np.mean(gains)), 5)}


def popularity(counts: NDArray[np.int64]) -> Scorer:
    """Scores every item by how often it was seen."""
    row = counts.astype(np.float32)
    return lambda part: np.tile(row, (len(part), 1))
