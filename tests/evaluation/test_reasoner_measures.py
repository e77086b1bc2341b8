"""Ranks, sets, user vectors and averages over seeds, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation.reasoner.inferred_sets import coverage, measure_enrichment, recall
from evaluation.reasoner.measures import Inferred, Tally, best, diversity, gains, hits, ranks, set_recall
from evaluation.reasoner.splits import Case
from models.reasoner.ranking_metrics import ranking_metrics
from models.reasoner.sequences import Question


def case(user: int, history: list[int], *truth: int) -> Case:
    return Case(user, np.array(history, dtype=np.int64), np.arange(len(history)), np.array(truth))


def test_ranks_are_those_of_the_product() -> None:
    """Catches a second definition of HR@10 and NDCG@10 that drifts from `models.reasoner.ranking_metrics`."""
    rng = np.random.default_rng(0)
    table = rng.integers(0, 9, (300, 40)).astype(np.float32)  # many ties
    cases = [case(n, rng.permutation(20)[:5].tolist(), int(rng.integers(20, 40))) for n in range(300)]
    found = ranks(lambda part: table[[one.user for one in part]], cases)
    asked = [Question(one.history, int(one.truth[0])) for one in cases]
    place = {id(question): number for number, question in enumerate(asked)}
    same = ranking_metrics(asked, lambda part: table[[place[id(one)] for one in part]], novel=True)
    assert round(float(hits(found).mean()), 5) == same["hr10"]
    assert round(float(gains(found).mean()), 5) == same["ndcg10"]


def test_equal_scores_earn_no_order_and_history_is_out() -> None:
    """Catches a constant scorer that scores, and seen items that push the target down."""
    flat = ranks(lambda part: np.zeros((1, 41), dtype=np.float32), [case(0, [40], 0)])
    assert flat.tolist() == [19.5]
    scores = np.arange(41, dtype=np.float32)[None]
    assert ranks(lambda part: scores.copy(), [case(0, [40, 39], 38)]).tolist() == [0]
    assert ranks(lambda part: scores.copy(), [case(0, [], 5)], among=np.array([5, 2, 9])).tolist() == [1]
    assert gains(np.array([0.0, 2.0, 10.0])).tolist() == [1.0, 0.5, 0.0]


def test_the_best_new_items_and_their_probabilities() -> None:
    """Catches a seen item in a list, and probabilities over items that were not allowed."""
    scores = np.log(np.array([[4.0, 1.0, 3.0, 2.0]], dtype=np.float32))
    [made] = best(lambda part: scores.copy(), [case(0, [0])], 2, weigh="softmax")
    assert made.rows.tolist() == [2, 3]
    np.testing.assert_allclose(made.confidences, [3 / 6, 2 / 6], rtol=1e-6)


def test_sets_by_hand() -> None:
    """Catches recall over the wrong whole, self-pairs in diversity, and coverage counted per user."""
    lists = [Inferred(np.array([0, 1]), np.ones(2)), Inferred(np.array([1, 2]), np.ones(2))]
    vectors = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    assert set_recall(lists, [case(0, [], 0, 3), case(1, [], 1, 2)]).tolist() == [0.5, 1.0]
    assert diversity(lists, vectors).tolist() == [1.0, 1.0]
    assert diversity([Inferred(np.array([0, 2]), np.ones(2))], vectors).tolist() == [0.0]
    assert coverage(lists, 6) == 0.5


def test_a_vector_that_points_at_the_next_items_helps_and_one_that_does_not_hurts() -> None:
    """Catches an inferred vector that never reaches the score, and a weight tuned on the users it is judged by."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cases = [case(n, [n], *range(100 + n, 104 + n)) for n in range(40)]
    right = [Inferred(one.truth, np.ones(4)) for one in cases]
    wrong = [Inferred(np.arange(60, 76), np.ones(16)) for _ in cases]
    tally = Tally()
    measure_enrichment(tally, "space", vectors, cases, {"right": right, "wrong": wrong})
    assert tally.difference("enrich.space.right.equal", "enrich.space.log.equal")["interval"][0] > 0.1
    assert tally.difference("enrich.space.wrong.tuned", "enrich.space.log.tuned")["value"] <= 0.05
    exact = np.arange(10, dtype=np.float32)[None]
    assert recall(exact, [case(0, [9], 8, 7, 1)], 2).tolist() == [2 / 3]


def test_a_user_counts_once_over_all_seeds() -> None:
    """Catches three seeds counted as three times the users, and a difference of different users."""
    tally = Tally()
    one, two = case(1, [], 0), case(2, [], 0)
    tally.add("a", [one, two], np.array([1.0, 0.0]))
    tally.add("a", [one], np.array([0.0]))
    tally.add("b", [one, two], np.array([0.5, 1.0]))
    tally.add("c", [one], np.array([1.0]))
    assert tally.each("a").tolist() == [0.5, 0.0]
    assert tally.difference("a", "b")["value"] == -0.5
    assert tally.ratio("a", "b")["value"] == pytest.approx(1 / 3, abs=1e-4)
    with pytest.raises(ValueError, match="same users"):
        tally.difference("a", "c")


def test_an_interval_of_a_ratio_holds_the_ratio() -> None:
    """Catches users drawn apart for the two models of a ratio."""
    rng = np.random.default_rng(0)
    cases = [case(n, [], 0) for n in range(400)]
    base = rng.random(400)
    tally = Tally()
    tally.add("twice", cases, 2 * base)
    tally.add("once", cases, base)
    found = tally.ratio("twice", "once")
    assert (found["value"], found["interval"]) == (2.0, [2.0, 2.0])
    assert math.isclose(tally.figure("once")["value"], base.mean(), abs_tol=1e-4)
