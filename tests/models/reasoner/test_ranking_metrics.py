from __future__ import annotations

import numpy as np
import pytest

from models.reasoner.ranking_metrics import popularity, ranking_metrics
from models.reasoner.sequences import Question


def question(history: list[int], target: int) -> Question:
    return Question(np.array(history), target)


def scorer(*rows: list[float]):
    return lambda part: np.array(rows, dtype=np.float32)


def test_hits_and_gains_follow_the_rank():
    scores = [float(-place) for place in range(20)]
    metrics = ranking_metrics([question([], 0), question([], 2), question([], 15)], scorer(*[scores] * 3), novel=False)
    assert metrics == {"hr10": pytest.approx(2 / 3, abs=1e-4), "ndcg10": pytest.approx(1.5 / 3, abs=1e-4)}


def test_seen_items_do_not_stand_before_a_new_one():
    scores = [float(-place) for place in range(20)]
    seen = list(range(12))
    assert ranking_metrics([question(seen, 12)], scorer(scores), novel=True)["ndcg10"] == 1.0
    assert ranking_metrics([question(seen, 12)], scorer(scores), novel=False)["hr10"] == 0.0


def test_a_constant_scorer_gets_no_credit():
    assert ranking_metrics([question([], 0)], scorer([1.0] * 100), novel=False)["hr10"] == 0.0


def test_no_questions_is_no_credit():
    assert ranking_metrics([], scorer(), novel=True) == {"hr10": 0.0, "ndcg10": 0.0}


def test_popularity_ranks_by_count():
    assert popularity(np.array([1, 5, 3]))([question([], 0)]).tolist() == [[1.0, 5.0, 3.0]]
