"""What a reasoner has to beat: popularity, item kNN, windowed co-occurrence, text kNN.

Owns their scores over a whole catalogue at once. Neighbor tables are dense (N, N): up to about 20 thousand items. The
co-occurrence is the formula of `models.reasoner.cooccurrence`, without its bound on neighbors. Must not see what is
asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.reasoner.measures import Scorer, Scores
from evaluation.reasoner.splits import Case
from models.reasoner.catalogue import Vectors
from models.reasoner.sequences import Ints, TrainingLog

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Windowed:
    """Settings of the windowed co-occurrence; the names are those of `CooccurrenceConfig`."""

    window: int = 10
    half_life_days: float = 60.0
    half_life_events: float = 50.0
    damping: float = 0.25


def popularity(log: TrainingLog, rows: int) -> Scorer:
    """How often an item was engaged with."""
    counts = np.bincount(log.items, minlength=rows).astype(np.float32)
    return lambda cases: np.tile(counts, (len(cases), 1))


def random_order(rows: int, rng: np.random.Generator) -> Scorer:
    """Nothing is known."""
    return lambda cases: rng.random((len(cases), rows), dtype=np.float32)


def cosine_table(log: TrainingLog, rows: int) -> Scores:
    """Cosine (N, N) of which users engaged with two items, whole histories, diagonal 0."""
    table = np.zeros((rows, rows), dtype=np.float32)
    pairs = np.unique(np.stack([log.users, log.items]), axis=1)  # each user and item once
    users, items = pairs
    for begin in range(0, log.user_count, 1_000):
        part = slice(*np.searchsorted(users, [begin, begin + 1_000]))
        engaged = np.zeros((min(1_000, log.user_count - begin), rows), dtype=np.float32)
        engaged[users[part] - begin, items[part]] = 1.0
        table += engaged.T @ engaged
    norms = np.sqrt(np.maximum(table.diagonal(), 1.0))
    table /= norms[:, None] * norms
    np.fill_diagonal(table, 0.0)
    return table


def windowed_table(log: TrainingLog, rows: int, config: Windowed, rng: np.random.Generator) -> Scores:
    """Decayed counts (N, N) of two items at most `window` events apart, worth 1 / distance, newer pairs more."""
    order = np.lexsort((rng.random(len(log.times)), log.times, log.users))
    users, items, times = log.users[order], log.items[order], log.times[order]
    worth = np.exp2((times - times.max(initial=0)) / (DAY_MS * config.half_life_days))
    table = np.zeros(rows * rows)
    for distance in range(1, min(config.window, len(items) - 1) + 1):
        left, right = items[:-distance], items[distance:]
        kept = (users[:-distance] == users[distance:]) & (left != right)
        pair = left[kept] * rows + right[kept]
        table += np.bincount(pair, worth[distance:][kept] / distance, minlength=rows * rows)
    counts: Scores = table.reshape(rows, rows).astype(np.float32)
    return counts + counts.T


def windowed_scorer(counts: Scores, config: Windowed) -> Scorer:
    """Scores from a table of decayed counts."""
    totals = counts.sum(1)
    leaving = counts / np.sqrt(np.maximum(totals, 1e-30))[:, None]
    arriving = np.where(totals > 0, np.maximum(totals, 1e-30) ** config.damping, 1.0).astype(np.float32)
    leaving /= arriving
    return neighbor_scorer(leaving, config.half_life_events)


def neighbor_scorer(table: Scores, half_life_events: float) -> Scorer:
    """Each history item's row of `table` (N, N), summed; an item `half_life_events` places back weighs half."""

    def scorer(cases: Sequence[Case]) -> Scores:
        scores = np.zeros((len(cases), table.shape[1]), dtype=np.float32)
        for row, case in zip(scores, cases, strict=True):
            items, weights = recency(case.history, half_life_events)
            row[:] = weights @ table[items]
        return scores

    return scorer


def text_scorer(vectors: Vectors, half_life_events: float) -> Scorer:
    """Cosine to the recency-weighted mean vector of the history."""

    def scorer(cases: Sequence[Case]) -> Scores:
        means = np.zeros((len(cases), vectors.shape[1]), dtype=np.float32)
        for row, case in zip(means, cases, strict=True):
            items, weights = recency(case.history, half_life_events)
            row[:] = weights @ vectors[items]
        scores: Scores = means @ vectors.T
        return scores

    return scorer


def recency(history: Ints, half_life_events: float) -> tuple[Ints, Scores]:
    """Different items, the newest first, each at its last event, and their weights: 1, then less."""
    newest_first = history[::-1]
    places = np.sort(np.unique(newest_first, return_index=True)[1])
    weights = np.exp2(-np.arange(len(places)) / half_life_events).astype(np.float32)
    return newest_first[places], weights


def blend(scores: Scores, other: Scores, weight: float, cases: Sequence[Case]) -> Scores:
    """`weight` of one and the rest of the other, each row brought to mean 0 and deviation 1 over new items."""
    return weight * _standard(scores, cases) + (1.0 - weight) * _standard(other, cases)


def _standard(scores: Scores, cases: Sequence[Case]) -> Scores:
    new = np.ones(scores.shape, dtype=np.bool_)
    for row, case in zip(new, cases, strict=True):
        row[case.history] = False
    count = np.maximum(new.sum(1, keepdims=True), 1)
    finite = np.where(new, scores, 0.0)
    mean = finite.sum(1, keepdims=True) / count
    spread = np.sqrt((np.where(new, scores - mean, 0.0) ** 2).sum(1, keepdims=True) / count)
    standard: Scores = ((scores - mean) / np.maximum(spread, 1e-9)).astype(np.float32)
    return standard
