from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from models.catalogue import Catalogue
from models.cooccurrence import CooccurrenceReasoner
from models.reasoner import Inference, UserHistory
from processors.refresh import UserRefresher, log_vector
from schemas.records import InferredBehavior, UserFeatures, UserTier
from tests.models.reasoner_tools import Told, told

CATALOGUE = Catalogue(["a", "b", "c", "d"], np.eye(4, dtype=np.float32))


@dataclass
class FakeReasoner:
    """Infers what it is told, by user."""

    answers: dict[str, Inference] = field(default_factory=dict)
    name: str = "fake@1"
    tier: UserTier = UserTier.DIFFUSION
    asked: list[str] = field(default_factory=list)

    def infer(
        self,
        histories: Sequence[UserHistory],
        catalogue: Catalogue,
        *,
        slots: int,
        steps: int,
        deadline_s: float | None = None,
        seed: int = 0,
    ) -> list[Inference]:
        self.asked += [history.user_id for history in histories]
        return [self.answers.get(history.user_id, Inference()) for history in histories]


def refreshed(histories: list[Told], reasoner: FakeReasoner | None, fallback: object = None) -> list[UserFeatures]:
    refresher = UserRefresher(reasoner, fallback, "v7", lambda: 5000, slots=4, steps=2)  # type: ignore[arg-type]
    return refresher.refresh(histories, CATALOGUE)


def vector(raw: bytes) -> list[float]:
    return np.frombuffer(raw, dtype="<f2").astype(float).round(3).tolist()


def test_a_user_gets_both_vectors_and_the_behaviours():
    behaviors = (InferredBehavior("c", 0.8), InferredBehavior("d", 0.6))
    [user] = refreshed([told("u", "a")], FakeReasoner({"u": Inference(behaviors, degraded=True)}))
    assert vector(user.log_vector) == [1, 0, 0, 0]
    assert vector(user.inferred_vector) == [0, 0, 0.8, 0.6]
    assert (user.user_id, user.version, user.tier, user.dims) == ("u", "v7", UserTier.DIFFUSION, 4)
    assert (user.event_time, user.computed_time, user.history_length) == (1000, 5000, 1)
    assert user.behaviors == behaviors
    assert user.reasoner == "fake@1"
    assert user.degraded


def test_behaviours_in_words_count_in_the_inferred_vector():
    """Catches words that are published and forgotten in the vector, or that push the items out of it."""
    behaviors = (InferredBehavior("c", 0.8), InferredBehavior("", 0.6, "a flight"))
    words = np.array([0, 0, 0, 0.6], dtype=np.float32)
    [user] = refreshed([told("u", "a")], FakeReasoner({"u": Inference(behaviors, text_vector=words)}))
    assert vector(user.inferred_vector) == [0, 0, 0.8, 0.6]
    assert user.behaviors == behaviors


def test_a_user_without_known_items_gets_zeros():
    for history in (told("u"), told("u", "?")):
        [user] = refreshed([history], FakeReasoner())
        assert vector(user.log_vector) == vector(user.inferred_vector) == [0] * 4
        assert user.behaviors == ()
    assert user.event_time == 1000


def test_the_fallback_answers_where_the_reasoner_cannot():
    answers = {name: Inference((InferredBehavior("c", 0.5),)) for name in "uvw"}
    first = FakeReasoner({"v": answers["v"]})
    second = FakeReasoner(answers, name="second", tier=UserTier.FALLBACK)
    users = refreshed([told("u", "a"), told("v", "a"), told("w", "a")], first, second)
    assert [user.tier for user in users] == [UserTier.FALLBACK, UserTier.DIFFUSION, UserTier.FALLBACK]
    assert [user.reasoner for user in users] == ["second", "fake@1", "second"]
    assert second.asked == ["u", "w"]


def test_the_fallback_learns_from_every_batch():
    fallback = CooccurrenceReasoner()
    [_, user] = refreshed([told("u", "a", "b"), told("v", "a")], None, fallback)
    assert [behavior.item_id for behavior in user.behaviors] == ["b"]
    assert user.tier == UserTier.FALLBACK


def test_newer_events_weigh_more_and_unknown_ones_keep_their_place():
    weights = log_vector(["a", "?", "b"], CATALOGUE, half_life_events=1.0)
    assert weights.tolist() == [0.25, 1.0, 0.0, 0.0]  # a is two places back


def test_an_empty_batch_and_no_reasoner():
    assert refreshed([], FakeReasoner()) == []
    with pytest.raises(ValueError, match="reasoner"):
        UserRefresher(None, None, "v", lambda: 0, 4, 2)
