"""Settings of the baselines and weights of the ensembles, chosen by NDCG@10 on validation cases.

Owns the grids. SASRec's is walked one setting after the other, learning rate first, with the whole step budget each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np

from evaluation.reasoner import baselines
from evaluation.reasoner.baselines import Windowed
from evaluation.reasoner.measures import Scorer, Scores, gains, ranks, ranks_of, strike
from evaluation.reasoner.ours import Ours
from evaluation.reasoner.sasrec import SasRecConfig, train_sasrec
from evaluation.reasoner.shop import Shop
from evaluation.reasoner.splits import Case
from models.reasoner.sequences import TrainingLog
from models.reasoner.training.blend import NETWORK_WEIGHTS

HALF_LIVES = (1.0, 4.0, 16.0, 64.0)
WINDOWS, EVENT_HALF_LIVES, DAMPINGS = (5, 10, 20), (2.0, 5.0, 12.0, 50.0), (0.25, 0.5, 0.75)
SASREC_GRID: Mapping[str, Sequence[float]] = {
    "learning_rate": (1e-3, 3e-3, 6e-3),
    "dropout": (0.2, 0.1, 0.4),
    "id_dropout": (0.0, 0.3),
}
STEP_SHARES = (1.0, 0.5)
"""Shares of the step budget: a network that overfits is better off with less."""
BLENDS = {"ensemble": ("ours", "cooccurrence"), "sasrec_ensemble": ("sasrec", "cooccurrence")}
BLEND_WEIGHTS = tuple(round(0.1 * tenth, 1) for tenth in range(11))
TUNING_USERS = 1_000


@dataclass(frozen=True, slots=True)
class Chosen:
    """The best settings; `tried` holds (what, NDCG@10 on validation) in the order of trying."""

    windowed: Windowed
    knn_half_life: float
    text_half_life: float
    sasrec: SasRecConfig
    network_weight: float | None = None
    blends: Mapping[str, tuple[str, str, float]] = field(default_factory=dict)
    tried: tuple[tuple[str, float], ...] = ()

    def told(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "cooccurrence": asdict(self.windowed),
            "knn_half_life_events": self.knn_half_life,
            "text_half_life_events": self.text_half_life,
            "sasrec": asdict(self.sasrec),
            "network_weight": self.network_weight,
            "blend_weights": {name: weight for name, (_, _, weight) in self.blends.items()},
            "tried": [{"what": what, "ndcg10": round(value, 5)} for what, value in self.tried],
        }


def choose(
    shop: Shop,
    train: TrainingLog,
    validation: Sequence[Case],
    start: SasRecConfig,
    progress: Callable[[float], None],
    *,
    sasrec: bool = True,
) -> Chosen:
    """Everything but the blends. `sasrec=False` leaves SASRec at `start`."""
    some = validation[:: max(1, len(validation) // TUNING_USERS)]
    tried: list[tuple[str, float]] = []

    def judge(scorer: Scorer) -> float:
        return float(gains(ranks(scorer, some)).mean())

    def note(what: str, value: float) -> float:
        tried.append((what, value))
        return value

    rows = len(shop)
    windowed = Windowed()
    found = -1.0
    for window in WINDOWS:
        counts = baselines.windowed_table(train, rows, Windowed(window=window), np.random.default_rng(0))
        for events, damping in product(EVENT_HALF_LIVES, DAMPINGS):
            config = Windowed(window=window, half_life_events=events, damping=damping)
            name = f"co-occurrence: window {window}, half-life {events:g} events, damping {damping:g}"
            value = note(name, judge(baselines.windowed_scorer(counts, config)))
            if value > found:
                found, windowed = value, config
    table = baselines.cosine_table(train, rows)
    knn = [
        (each, note(f"kNN: half-life {each:g} events", judge(baselines.neighbor_scorer(table, each))))
        for each in HALF_LIVES
    ]
    text = [
        (each, note(f"text kNN: half-life {each:g} events", judge(baselines.text_scorer(shop.vectors, each))))
        for each in HALF_LIVES
    ]
    best = choose_sasrec(shop, train, start, judge, note, progress) if sasrec else start
    return Chosen(windowed, _best(knn), _best(text), best, tried=tuple(tried))


def choose_sasrec(
    shop: Shop,
    train: TrainingLog,
    start: SasRecConfig,
    judge: Callable[[Scorer], float],
    note: Callable[[str, float], float],
    progress: Callable[[float], None],
) -> SasRecConfig:
    """The best of the grid, one setting after the other."""
    seen: dict[SasRecConfig, float] = {}
    total = 1 + sum(len(values) - 1 for values in (*SASREC_GRID.values(), STEP_SHARES))
    grid = {**SASREC_GRID, "steps": [max(1, round(share * start.steps)) for share in STEP_SHARES]}
    best = replace(start, **{name: values[0] for name, values in grid.items()})  # type: ignore[arg-type]
    for name, values in grid.items():
        for value in values:
            config = replace(best, **{name: value})  # type: ignore[arg-type]
            if config in seen:
                continue
            done = len(seen)
            scorer = train_sasrec(
                train,
                shop.vectors,
                config,
                progress=lambda share, done=done: progress((done + share) / total),  # type: ignore[misc]
            )
            rates = f"lr {config.learning_rate:g}, dropout {config.dropout:g}, id-dropout {config.id_dropout:g}"
            seen[config] = note(f"SASRec: {config.steps} steps, {rates}", judge(scorer))
        best = max(seen, key=lambda config: seen[config])
    return best


def choose_weight(ours: Ours, validation: Sequence[Case]) -> tuple[float, list[tuple[str, float]]]:
    """What our network weighs beside its neighbors, and what was tried."""
    some = validation[:: max(1, len(validation) // TUNING_USERS)]
    found = []
    for weight in NETWORK_WEIGHTS:
        found.append((weight, float(gains(ranks(ours.weighed(weight).scores, some)).mean())))
    return _best(found), [(f"ours: network weight {weight:g}", value) for weight, value in found]


def choose_blends(chosen: Chosen, models: Mapping[str, Scorer], validation: Sequence[Case]) -> Chosen:
    """The weights of both ensembles."""
    some = validation[:: max(1, len(validation) // TUNING_USERS)]
    tried = list(chosen.tried)
    blends: dict[str, tuple[str, str, float]] = {}
    for name, (one, other) in BLENDS.items():
        first, second = models[one](some), models[other](some)
        found = []
        for weight in BLEND_WEIGHTS:
            scores = strike(baselines.blend(first, second, weight, some), some)
            value = float(gains(ranks_of(scores, some)).mean())
            tried.append((f"{name}: weight {weight:g} of {one}", value))
            found.append((weight, value))
        blends[name] = (one, other, _best(found))
    return replace(chosen, blends=blends, tried=tuple(tried))


def blended(one: Scorer, other: Scorer, weight: float) -> Scorer:
    """The ensemble of two scorers."""

    def scorer(cases: Sequence[Case]) -> Scores:
        return baselines.blend(one(cases), other(cases), weight, cases)

    return scorer


def _best(found: Sequence[tuple[float, float]]) -> float:
    return max(found, key=lambda pair: pair[1])[0]
