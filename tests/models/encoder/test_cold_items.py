"""What is held out, what is true of it, and the measures."""

from __future__ import annotations

import numpy as np

from models.encoder.cold_items import ColdConfig, ColdItems, cold_buyers, cold_items, held_out, recall_at
from models.encoder.pairs import DAY_MS
from models.reasoner.sequences import TrainingLog

SPLIT = 100 * DAY_MS
CONFIG = ColdConfig(known=10, least_baskets=2, top=2, damping=1, least_together=2)


def world() -> TrainingLog:
    """Users 0-9 bought items 0-3 before the split; afterwards item 4 goes with 0, item 5 with nothing."""
    events = [(user, item, user * DAY_MS) for user in range(10) for item in (0, 1, 2, 3)]
    events += [(user, item, SPLIT + DAY_MS) for user in range(4) for item in (0, 4)]
    events += [(4, 1, SPLIT), (4, 4, SPLIT), (5, 5, SPLIT), (6, 5, SPLIT)]
    events.sort(key=lambda event: (event[0], event[2]))
    users, items, times = (np.array(column, dtype=np.int64) for column in zip(*events, strict=True))
    return TrainingLog(users, items, times, 10)


def test_cold_is_what_was_first_seen_later_and_its_truth_is_what_it_met() -> None:
    """Catches truth from before the split, known items that are cold, and a chance meeting called truth."""
    found = cold_items(world(), 6, SPLIT, CONFIG)
    assert found.cold.tolist() == [4]
    assert sorted(found.known.tolist()) == [0, 1, 2, 3]
    assert found.known[found.truth[0]].tolist() == [0]


def test_buyers_are_known_by_what_they_bought_before() -> None:
    """Catches a history that holds the answer, or one that begins with its oldest item."""
    log = world()
    found = cold_items(log, 6, SPLIT, CONFIG)
    buyers = cold_buyers(log, found, 6, SPLIT, history=3, least=2)
    assert buyers.bought.shape == (5, 1)
    assert buyers.bought.all()
    assert buyers.histories.shape == (5, 3)
    assert (buyers.histories < 4).all()
    vectors = np.eye(6, dtype=np.float32)
    assert np.allclose(buyers.vectors(vectors).sum(1), 1)


def test_held_out_items_stand_on_no_other_side() -> None:
    """Catches a held-out item among those it is compared with."""
    config = ColdConfig(known=10, least_baskets=2, top=2, damping=1, least_together=1)
    found = held_out(world(), 6, 0.4, np.random.default_rng(0), config)
    assert len(found.cold) == 2
    assert not set(found.cold) & set(found.known)


def test_recall_and_ndcg_of_a_known_ranking() -> None:
    """Catches a discount from the wrong place, or an ideal of more than there is."""
    truth = np.array([[True, False, True, False]])
    scores = np.array([[0.9, 0.8, 0.1, 0.0]])
    assert recall_at(scores, truth, 2).tolist() == [0.5]
    question = ColdItems(np.array([9]), np.arange(4), truth)
    assert np.isclose(question.ndcg(scores, 3)[0], (1 + 0.5) / (1 + 1 / np.log2(3)))
    assert question.ndcg(-scores, 4)[0] < question.ndcg(scores, 4)[0] < 1
    assert question.ndcg(truth.astype(float), 4)[0] == 1
