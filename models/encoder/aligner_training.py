"""Train the aligner on a log: choose what is validated on, fit the head, fall back to PCA where it does not win.

Owns the validation and the choice; `models.encoder.contrastive` fits, `models.encoder.cold_items` judges. Must not read
files nor encode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from models.encoder.aligner import LinearAligner, Vectors
from models.encoder.cold_items import ColdConfig, ColdItems, cold_items, held_out
from models.encoder.contrastive import AlignerProgress, HeadConfig, Texts, train_head
from models.encoder.pairs import DAY_MS, NothingToLearn, Pairs, co_engaged
from models.reasoner.sequences import TrainingEvents, TrainingLog, code, split_time

LEAST_COLD = 30
"""With fewer new items than this, a validation on them is chance: random items are held out instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignerConfig:
    """The head, the window in which two engagements belong together, and how validation items are found."""

    head: HeadConfig = field(default_factory=HeadConfig)
    window_ms: int = DAY_MS
    reach: int = 40
    validation_share: float = 0.35
    cold: ColdConfig = field(default_factory=lambda: ColdConfig(known=2_000, least_baskets=5))


def train_aligner(
    events: TrainingEvents,
    item_ids: Sequence[str],
    texts: Texts,
    config: AlignerConfig,
    *,
    progress: Callable[[AlignerProgress], None] = lambda _: None,
) -> tuple[LinearAligner, dict[str, Any]]:
    """The aligner for `item_ids`, whose encoded texts are the rows of `texts`, and what validation said.

    Items first seen in the newest `validation_share` of the log are validated on (random held-out ones where there are
    too few); the head is then fitted again to the whole log for as many steps as were best. Raises
    `NothingToLearn` where no event is about an item or no pair is frequent enough.
    """
    place = {item_id: row for row, item_id in enumerate(item_ids)}
    log = code(events, [place.get(item_id, -1) for item_id in events.item_ids])
    if not len(log.items):
        raise NothingToLearn(f"none of {len(events.item_ids)} events is about one of the {len(item_ids)} items")
    past, cold, kind = validation(log, len(item_ids), config)
    pca = LinearAligner.fit_pca(texts.every(), config.head.dims)
    metrics: dict[str, Any] = {"validated_on": kind, "validation_items": len(cold.cold)}
    if not len(cold.cold):
        return pca, {**metrics, "found_by": "pca", "steps": 0}
    fit = train_head(
        texts,
        _pairs(past, len(item_ids), config),
        config.head,
        score=lambda aligner: _score(aligner.align, texts, cold),
        progress=progress,
    )
    metrics["raw_recall50"] = round(_score(lambda vectors: vectors, texts, cold), 4)
    metrics["pca_recall50"] = round(fit.scores[0], 4)
    metrics["recall50"] = round(max(fit.scores), 4)
    if fit.step == 0:
        return pca, {**metrics, "found_by": "pca", "steps": 0}
    whole = train_head(texts, _pairs(log, len(item_ids), config), replace(config.head, steps=fit.step))
    return whole.aligner, {**metrics, "found_by": "contrast", "steps": fit.step}


def validation(log: TrainingLog, rows: int, config: AlignerConfig) -> tuple[TrainingLog, ColdItems, str]:
    """What to train on, what to validate on, and what that is called: the newest items, or random ones held out."""
    split = split_time(log, config.validation_share) // DAY_MS * DAY_MS
    cold = cold_items(log, rows, split, config.cold)
    if len(cold.cold) >= LEAST_COLD:
        return log.take(log.times < split), cold, "items first seen after a time split"
    cold = held_out(log, rows, 0.1, np.random.default_rng(config.head.seed), config.cold)
    return log.take(~np.isin(log.items, cold.cold)), cold, "random items held out"


def _pairs(log: TrainingLog, rows: int, config: AlignerConfig) -> Pairs:
    rng = np.random.default_rng(config.head.seed)
    return co_engaged(log, rows, rng, window_ms=config.window_ms, reach=config.reach)


def _score(align: Callable[[Vectors], Vectors], texts: Texts, cold: ColdItems) -> float:
    """Mean recall@50 of cold items, of their texts and of their knowledge where there is some."""
    tiers = [texts.text] + ([texts.best()] if texts.known.any() else [])
    return float(np.mean([cold.recall(align(t[cold.cold]) @ align(t[cold.known]).T).mean() for t in tiers]))
