from __future__ import annotations

from models.reasoner.cooccurrence import CooccurrenceConfig, CooccurrenceReasoner
from models.reasoner.reasoner import LearnsOnline
from tests.models.reasoner.reasoner_tools import Told, catalogue, told

PAIRS = [told("u", "i1", "i2"), told("v", "i1", "i2"), told("w", "i1", "i3"), told("x", "i7", "i8")]


def behaviors(reasoner: CooccurrenceReasoner, history: Told, slots: int = 4) -> list[str]:
    [inference] = reasoner.infer([history], catalogue(), slots=slots, steps=1)
    return [behavior.item_id for behavior in inference.behaviors]


def test_neighbors_come_by_how_often_they_stand_together():
    assert behaviors(CooccurrenceReasoner(PAIRS), told("new", "i1")) == ["i2", "i3"]


def test_seen_unknown_and_removed_items_are_not_inferred():
    reasoner = CooccurrenceReasoner([*PAIRS, told("y", "i1", "not in the catalogue")])
    assert behaviors(reasoner, told("new", "i1", "i3")) == ["i2"]
    live = catalogue()
    live.remove(["i2"])
    [inference] = reasoner.infer([told("new", "i1")], live, slots=4, steps=1)
    assert [behavior.item_id for behavior in inference.behaviors] == ["i3"]


def test_confidences_are_shares():
    [inference] = CooccurrenceReasoner(PAIRS).infer([told("new", "i1")], catalogue(), slots=4, steps=1)
    assert abs(sum(behavior.confidence for behavior in inference.behaviors) - 1) < 1e-9


def test_a_user_without_known_items_gets_nothing():
    reasoner = CooccurrenceReasoner(PAIRS)
    assert behaviors(reasoner, told("new")) == []
    assert behaviors(reasoner, told("new", "unheard of")) == []


def test_a_history_shown_twice_counts_once():
    once, often = CooccurrenceReasoner(PAIRS), CooccurrenceReasoner(PAIRS)
    for _ in range(3):
        often.observe(PAIRS)
    assert once.scores(["i1"]) == often.scores(["i1"])
    assert isinstance(often, LearnsOnline)


def test_a_growing_history_counts_as_if_shown_at_once():
    whole = told("u", "i1", "i2", "i3", "i4")
    grown = CooccurrenceReasoner()
    for length in (1, 2, 4):
        grown.observe([Told("u", whole.item_ids[:length], whole.event_times[:length])])
    assert grown.scores(["i1", "i2"]) == CooccurrenceReasoner([whole]).scores(["i1", "i2"])


def test_events_of_one_moment_that_come_in_two_parts_all_count():
    whole = Told("u", ("i1", "i2", "i3"), (5, 5, 5))
    grown = CooccurrenceReasoner([Told("u", ("i1", "i2"), (5, 5))])
    grown.observe([whole])
    assert grown.scores(["i1"]) == CooccurrenceReasoner([whole]).scores(["i1"])


def test_newer_pairs_weigh_more():
    year = 365 * 86_400_000
    old = [Told(f"o{i}", ("i1", "i2"), (0, 1000)) for i in range(3)]
    new = Told("n", ("i1", "i3"), (year, year + 1000))
    assert behaviors(CooccurrenceReasoner([*old, new]), told("x", "i1"))[0] == "i3"


def test_memory_is_bounded():
    config = CooccurrenceConfig(max_items=50, max_neighbors=5, max_users=20)
    reasoner = CooccurrenceReasoner(config=config)
    for user in range(500):
        reasoner.observe([told(f"u{user}", "hub", f"i{user}", f"j{user % 40}")])
    assert len(reasoner) <= 50
    assert len(reasoner.scores(["hub"])) <= 10
    assert len(reasoner._learned) <= 20
