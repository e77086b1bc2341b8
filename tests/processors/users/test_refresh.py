from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freshet.records import InferredBehavior, UserFeatures, UserTier
from models.reasoner.catalogue import Catalogue
from models.reasoner.cooccurrence import CooccurrenceReasoner
from models.reasoner.reasoner import Inference, UserHistory
from processors.users.refresh import HALF_LIFE_EVENTS, UserRefresher, log_vectors
from tests.models.reasoner.reasoner_tools import Told, told

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


def test_a_user_gets_both_vectors_and_the_behaviors():
    behaviors = (InferredBehavior("c", 0.8), InferredBehavior("d", 0.6))
    [user] = refreshed([told("u", "a")], FakeReasoner({"u": Inference(behaviors, degraded=True)}))
    assert vector(user.log_vector) == [1, 0, 0, 0]
    assert vector(user.inferred_vector) == [0, 0, 0.8, 0.6]
    assert (user.user_id, user.version, user.tier, user.dims) == ("u", "v7", UserTier.DIFFUSION, 4)
    assert (user.event_time, user.computed_time, user.history_length) == (1000, 5000, 1)
    assert user.behaviors == behaviors
    assert user.reasoner == "fake@1"
    assert user.degraded


def test_behaviors_in_words_count_in_the_inferred_vector():
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


def test_newer_events_weigh_more_and_unknown_ones_keep_their_place() -> None:
    """Catches recency counted from the wrong end, or in known events only."""
    [weights, none] = log_vectors([["a", "?", "b"], []], CATALOGUE, half_life_events=1.0)
    assert weights.tolist() == [0.25, 1.0, 0.0, 0.0]  # a is two places back
    assert none.tolist() == [0.0] * 4


def test_an_empty_batch_and_no_reasoner() -> None:
    """Catches a batch of nobody that fails, and a worker that starts without anyone to ask."""
    assert refreshed([], FakeReasoner()) == []
    with pytest.raises(ValueError, match="reasoner"):
        UserRefresher(None, None, "v", lambda: 0, 4, 2)


def test_reasoners_share_one_deadline() -> None:
    """Catches a fallback that begins the lease's time anew, and ends after it."""
    given: list[float] = []

    class Slow(FakeReasoner):
        def infer(self, *args: Any, **options: Any) -> list[Inference]:
            given.append(options["deadline_s"])
            time.sleep(0.02)
            return super().infer(*args, **options)

    for deadline_s in (1.0, 0.01):
        refresher = UserRefresher(Slow(), Slow(), "v", lambda: 0, slots=4, steps=2, deadline_s=deadline_s)
        refresher.refresh([told("u", "a")], CATALOGUE)
    assert given[0] == pytest.approx(1.0, abs=0.005)
    assert 0.5 < given[1] <= 0.98
    assert given[3] == 0.0


WORLD = Catalogue([f"i{n}" for n in range(12)], np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32))
ids = st.lists(st.integers(0, 15).map("i{}".format), max_size=9)  # i12 to i15 are unknown
behaviors = st.lists(st.tuples(st.integers(0, 15), st.floats(0, 1, width=32)), max_size=5, unique_by=lambda one: one[0])
users = st.lists(st.tuples(ids, behaviors, st.booleans()), max_size=6)
Drawn = list[tuple[list[str], list[tuple[int, float]], bool]]


def world_features(drawn: Drawn, order: Sequence[int]) -> list[UserFeatures]:
    told_of = [told(f"u{n}", *drawn[n][0]) for n in order]
    answers = {
        f"u{n}": Inference(tuple(InferredBehavior(f"i{item}", share) for item, share in inferred), degraded)
        for n, (_, inferred, degraded) in enumerate(drawn)
    }
    return UserRefresher(FakeReasoner(answers), None, "v", lambda: 0, slots=4, steps=2).refresh(told_of, WORLD)


@given(users, st.randoms(use_true_random=False))
def test_a_users_features_do_not_depend_on_the_batch(drawn: Drawn, rng: random.Random) -> None:
    """Catches a user who gets a neighbor's vector, or another one in other company."""
    order = list(range(len(drawn)))
    rng.shuffle(order)
    together = world_features(drawn, order)
    assert [one.user_id for one in together] == [f"u{n}" for n in order]
    assert together == [world_features(drawn, [n])[0] for n in order]


@given(users)
def test_vectors_are_the_sums_they_claim_to_be(drawn: Drawn) -> None:
    """Catches weights on the wrong item, a vector that is not of length 1, and anything but zeros where nothing is."""
    for one, (history, inferred, degraded) in zip(world_features(drawn, range(len(drawn))), drawn, strict=True):
        by_recency = [(item, 0.5 ** (back / HALF_LIFE_EVENTS)) for back, item in enumerate(reversed(history))]
        by_confidence = [(f"i{item}", share) for item, share in inferred]
        for raw, weighted in ((one.log_vector, by_recency), (one.inferred_vector, by_confidence)):
            vectors, _ = WORLD.get([item for item, _ in weighted])
            wanted = np.array([weight for _, weight in weighted]) @ vectors.astype(np.float64)
            norm = float(np.linalg.norm(wanted))
            if 0 < norm < 1e-6:
                continue  # float32 rounds what is left of such a sum
            np.testing.assert_allclose(np.frombuffer(raw, "<f2"), wanted / norm if norm else 0 * wanted, atol=2e-3)
        assert (one.degraded, one.history_length) == (degraded, len(history))
        assert [(b.item_id, b.confidence) for b in one.behaviors] == by_confidence
