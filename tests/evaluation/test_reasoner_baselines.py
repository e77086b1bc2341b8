"""The baselines against values computed by hand and against the product's own co-occurrence."""

from __future__ import annotations

import numpy as np

from evaluation.reasoner import baselines
from evaluation.reasoner.baselines import Windowed
from models.reasoner.cooccurrence import CooccurrenceConfig, CooccurrenceReasoner
from models.reasoner.sequences import TrainingLog
from tests.evaluation.test_reasoner_measures import case
from tests.evaluation.test_reasoner_splits import log
from tests.models.reasoner.reasoner_tools import Told


def test_popularity_counts_events() -> None:
    """Catches users counted instead of events, and items without events left out."""
    scores = baselines.popularity(log([(0, 0), (0, 1), (1, 2)], [(1, 0)]), 3)([case(0, [0])])
    assert scores.tolist() == [[2.0, 2.0, 0.0]]


def test_cosine_of_whole_histories() -> None:
    """Catches repeats counted twice, a neighbor of itself, and an unnormalized count."""
    table = baselines.cosine_table(log([(0, 0), (1, 1), (1, 2)], [(0, 0), (2, 1)], [(1, 0)]), 4)
    np.testing.assert_allclose(table[0], [0, 1 / 2, 1 / np.sqrt(2), 0], rtol=1e-6)
    np.testing.assert_allclose(table, table.T)
    scores = baselines.neighbor_scorer(table, 1.0)([case(0, [0, 2])])  # 2 weighs 1, 0 weighs 1/2
    np.testing.assert_allclose(scores[0], table[2] + 0.5 * table[0], rtol=1e-6)


def test_the_windowed_co_occurrence_is_the_one_of_the_product() -> None:
    """Catches a baseline that is weaker or stronger than the fallback reasoner it stands for."""
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, 25, int(rng.integers(2, 30))) for _ in range(40)]
    day = 86_400_000
    times = [np.arange(len(items)) * day + user for user, items in enumerate(histories)]
    world = TrainingLog(
        np.repeat(np.arange(40), [len(items) for items in histories]),
        np.concatenate(histories),
        np.concatenate(times),
        40,
    )
    config = Windowed(window=4, half_life_events=7.0, damping=0.3)
    table = baselines.windowed_table(world, 25, config, np.random.default_rng(0))
    product = CooccurrenceReasoner(
        [Told(f"u{user}", [str(n) for n in items], times[user].tolist()) for user, items in enumerate(histories)],
        CooccurrenceConfig(window=4, half_life_events=7.0, damping=0.3, max_neighbors=1_000),
    )
    asked = [case(0, [3, 8, 3, 11, 0]), case(1, [24])]
    for row, one in zip(baselines.windowed_scorer(table, config)(asked), asked, strict=True):
        wanted = product.scores([str(item) for item in one.history])
        mine = {str(item): value for item, value in enumerate(row) if value}
        assert mine.keys() == wanted.keys()
        order = sorted(wanted, key=lambda item: -wanted[item])
        ratios = np.array([mine[item] / wanted[item] for item in order])
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)  # weights are counted from another day


def test_text_kNN_weighs_what_is_new() -> None:
    """Catches a mean that forgets recency."""
    vectors = np.eye(3, dtype=np.float32)
    scores = baselines.text_scorer(vectors, 1.0)([case(0, [0, 1, 0, 2])])
    np.testing.assert_allclose(scores[0], [0.5, 0.25, 1.0])  # newest first: 2, 0, 1


def test_an_ensemble_weighs_like_with_like() -> None:
    """Catches a model with large scores that drowns the other, and seen items that decide the scale."""
    one = np.array([[1e6, 2.0, 1.0, 3.0]], dtype=np.float32)
    other = np.array([[0.0, 300.0, 100.0, 200.0]], dtype=np.float32)
    made = baselines.blend(one, other, 0.5, [case(0, [0])])[0, 1:]
    np.testing.assert_allclose(made, [np.sqrt(1.5) / 2, -np.sqrt(1.5), np.sqrt(1.5) / 2], rtol=1e-5)
    alone = baselines.blend(one, other, 1.0, [case(0, [0])])[0, 1:]
    np.testing.assert_allclose(alone, [0, -np.sqrt(1.5), np.sqrt(1.5)], atol=1e-5)
