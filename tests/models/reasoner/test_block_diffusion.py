from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.reasoner import block_diffusion as block_reasoner
from models.reasoner.block_diffusion import BlockDiffusionReasoner
from models.reasoner.catalogue import Catalogue
from models.reasoner.cooccurrence_table import NeighborTable
from models.reasoner.reasoner import Inference, ReasonerSources, make_reasoner
from models.reasoner.sampler import SlotPlan
from streams.settings import SettingError, Settings
from tests.models.reasoner.reasoner_tools import (
    DIMS,
    Told,
    catalogue,
    checkpoint,
    names,
    random_histories,
    told,
    unit_vectors,
)

USERS = random_histories(12, items=40, longest=20)


def reasoner(**options: object) -> BlockDiffusionReasoner:
    return BlockDiffusionReasoner(checkpoint(), **options)  # type: ignore[arg-type]


def items_of(inference: Inference) -> list[str]:
    return [behavior.item_id for behavior in inference.behaviors]


def infer(
    histories: list[Told], live: Catalogue | None = None, slots: int = 6, steps: int = 2, **options: object
) -> list[Inference]:
    return reasoner(**options).infer(histories, catalogue() if live is None else live, slots=slots, steps=steps)


def assert_same(one: Inference, other: Inference) -> None:
    """Equal up to float rounding, which follows the shape of a batch."""
    assert items_of(one) == items_of(other)
    np.testing.assert_allclose(
        [b.confidence for b in one.behaviors], [b.confidence for b in other.behaviors], rtol=1e-4
    )


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_all_slots_filled_no_duplicates_nothing_seen(steps):
    for history, inference in zip(USERS, infer(USERS, steps=steps), strict=True):
        inferred = items_of(inference)
        assert len(inferred) == len(set(inferred)) == 6
        assert not set(inferred) & set(history.item_ids)
        confidences = [behavior.confidence for behavior in inference.behaviors]
        assert confidences == sorted(confidences, reverse=True)
        assert all(0 < confidence <= 1 for confidence in confidences)
        assert not inference.degraded


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_batch_does_not_matter(temperature):
    together = infer(USERS, plan=SlotPlan(temperature=temperature))
    for history, inference in zip(USERS, together, strict=True):
        [alone] = infer([history], plan=SlotPlan(temperature=temperature))
        assert_same(alone, inference)


def test_the_same_seed_gives_the_same_answer():
    warm = reasoner(plan=SlotPlan(temperature=2.0))

    def answers(seed: int) -> list[Inference]:
        return warm.infer(USERS, catalogue(), slots=6, steps=2, seed=seed)

    assert answers(1) == answers(1)
    assert answers(1) != answers(2)


def test_cached_equals_uncached():
    """Two steps through the prefix cache against every step recomputed by the training pass."""
    made = checkpoint()
    network, slots = made.network, 4
    history = told("u", "i3", "i9", "i4", "i30")
    embeddings, bias = network.embed(torch.from_numpy(made.vectors), torch.arange(40))
    read = torch.tensor([3, 9, 4, 30])
    chosen: dict[int, int] = {}
    for count in (2, 2):
        rows = torch.cat([read, torch.tensor([chosen.get(slot, 0) for slot in range(slots)])])
        clean = embeddings[rows][None]
        masked = torch.tensor([[False] * 4 + [slot not in chosen for slot in range(slots)]])
        noisy = torch.where(masked[..., None], network.mask, clean)
        _, shifted = network(clean, noisy, torch.tensor([8]), 4)
        logits = network.scores(shifted[0, 4:], embeddings, bias)
        logits[:, read] = -torch.inf
        logits[:, list(chosen.values())] = -torch.inf
        probabilities = logits.softmax(1)
        probabilities[list(chosen)] = 0
        for _ in range(count):
            slot, row = divmod(int(probabilities.argmax()), 40)
            chosen[slot] = row
            probabilities[slot] = 0
            probabilities[:, row] = 0
    [inference] = BlockDiffusionReasoner(made).infer([history], catalogue(), slots=slots, steps=2)
    assert set(items_of(inference)) == {f"i{row}" for row in chosen.values()}


def test_a_new_item_can_be_inferred_and_a_removed_one_cannot():
    live, warm = catalogue(), reasoner()
    history = [told("u", "i1", "i2")]
    [before] = warm.infer(history, live, slots=4, steps=1)
    gone = items_of(before)[0]
    live.remove([gone])
    # Vectors so long that their logits win for one or the other: the test is about joining, not about taste.
    live.upsert(["new", "newer"], np.stack([unit_vectors(1)[0], -unit_vectors(1)[0]]) * 1000)
    [after] = warm.infer(history, live, slots=4, steps=1)
    assert {"new", "newer"} & set(items_of(after))
    assert gone not in items_of(after)


def test_a_changed_vector_counts_from_the_next_call():
    live, warm = catalogue(), reasoner()
    history = [told("u", "i1", "i2")]
    [before] = warm.infer(history, live, slots=4, steps=1)
    live.upsert(["i1", "i2"], unit_vectors(2, seed=9) * 5)
    [after] = warm.infer(history, live, slots=4, steps=1)
    assert before != after
    [fresh] = infer(history, live, slots=4, steps=1)
    assert_same(after, fresh)


def test_the_catalogue_decides_not_the_checkpoint():
    live = Catalogue(names(8), unit_vectors(8))
    [inference] = infer([told("u", "i1", "i20")], live)
    assert set(items_of(inference)) <= set(names(8)) - {"i1"}


def test_unknown_items_are_skipped_and_an_empty_history_gives_nothing():
    empty, unknown, mixed, plain = infer(
        [told("a"), told("b", "?"), told("c", "?", "i1", "?", "i2"), told("c", "i1", "i2")]
    )
    assert empty == unknown == Inference()
    assert_same(mixed, plain)
    assert infer([]) == []


def test_a_user_with_fewer_new_items_than_slots_gets_them_all():
    [inference] = infer([told("u", *names(37))], slots=6)
    assert sorted(items_of(inference)) == ["i37", "i38", "i39"]


def test_repeats_when_wanted():
    [inference] = infer([told("u", *names(39))], slots=6, repeats=True)
    assert len(items_of(inference)) == 6


def test_a_deadline_keeps_what_is_fixed():
    times = iter([0.0, 0.0, 2.0, 2.0])
    [inference] = reasoner(clock=lambda: next(times)).infer(
        [told("u", "i1")], catalogue(), slots=6, steps=2, deadline_s=1.0
    )
    assert inference.degraded
    assert len(inference.behaviors) == 3


def test_a_deadline_already_past_gives_degraded_and_nothing():
    times = iter([0.0, 2.0])
    assert reasoner(clock=lambda: next(times)).infer(
        [told("u", "i1")], catalogue(), slots=6, steps=2, deadline_s=1.0
    ) == [Inference(degraded=True)]


def test_other_dims_are_refused():
    with pytest.raises(ValueError, match="dims"):
        infer(USERS, Catalogue.empty(DIMS + 1))


@pytest.mark.parametrize("steps", [1, 3])
def test_a_shortlist_infers_what_full_scoring_does(monkeypatch, steps):
    """Catches a large catalogue in which seen, removed or late items are treated otherwise than in a small one."""

    def changing() -> list[list[Inference]]:
        live, warm = catalogue(), reasoner(plan=SlotPlan(temperature=1.0))
        answers = [warm.infer(USERS, live, slots=6, steps=steps)]
        live.remove(["i1", "i5", items_of(answers[0][0])[0]])
        live.upsert(["new"], unit_vectors(1, seed=3) * 50)
        answers.append(warm.infer(USERS, live, slots=6, steps=steps))
        return answers

    full = changing()
    monkeypatch.setattr(block_reasoner, "FULL_SCORING_ITEMS", 10)
    for one, other in zip(changing(), full, strict=True):
        for listed, whole in zip(one, other, strict=True):
            assert_close(listed, whole)


def assert_close(one: Inference, other: Inference) -> None:
    """The same items; the index keeps embeddings in half precision, the sampler scores in full."""
    assert items_of(one) == items_of(other)
    np.testing.assert_allclose(
        [b.confidence for b in one.behaviors], [b.confidence for b in other.behaviors], rtol=0.02, atol=0.01
    )


def test_a_shortlist_is_the_same_alone_and_in_a_batch(monkeypatch):
    """Catches a list that is longer, or other, because of who else is asked."""
    monkeypatch.setattr(block_reasoner, "FULL_SCORING_ITEMS", 10)
    monkeypatch.setattr(block_reasoner, "SHORTLIST", 8)
    warm = BlockDiffusionReasoner(replace(checkpoint(), neighbors=neighbors()))
    together = warm.infer(USERS, catalogue(), slots=6, steps=2)
    for history, inference in zip(USERS, together, strict=True):
        [alone] = warm.infer([history], catalogue(), slots=6, steps=2)
        assert_same(alone, inference)


def neighbors() -> NeighborTable:
    """Of each of 40 items the next three."""
    rows = (torch.arange(40)[:, None] + torch.arange(1, 4)) % 40
    return NeighborTable(rows, torch.tensor([0.6, 0.3, 0.1]).expand(40, -1).contiguous(), half_life=3.0)


@pytest.mark.parametrize("large", [False, True])
def test_neighbors_lift_what_was_done_nearby_also_when_the_catalogue_has_another_order(monkeypatch, large):
    """Catches neighbors by the checkpoint's rows looked up by the catalogue's, and removed ones that come back."""
    if large:
        monkeypatch.setattr(block_reasoner, "FULL_SCORING_ITEMS", 10)
        monkeypatch.setattr(block_reasoner, "SHORTLIST", 4)
    made = replace(checkpoint(), neighbors=neighbors())
    made.network.score_weight.fill_(0.02)
    live = Catalogue(["new", *names(40)[::-1]], unit_vectors(41))
    live.remove(["i12"])
    [inference] = BlockDiffusionReasoner(made).infer([told("u", "new", "i10")], live, slots=2, steps=1)
    assert set(items_of(inference)) == {"i11", "i13"}
    [other] = BlockDiffusionReasoner(made).infer([told("u", "i10", "i30")], live, slots=2, steps=1)
    assert "i31" in items_of(other)


def sources(**settings: object) -> ReasonerSources:
    nothing: object = None
    return ReasonerSources(
        settings=Settings.load({}, **settings).reasoner,  # type: ignore[arg-type]
        timeout_s=1.0,
        checkpoint=checkpoint(),
        encoder=lambda: nothing,  # type: ignore[arg-type,return-value]
        aligner=lambda: nothing,  # type: ignore[arg-type,return-value]
        titles=list,
        acceptable=bool,
    )


def test_the_settings_decide_how_slots_are_placed_and_fixed():
    """Catches settings that reach nobody."""
    spread = [
        Told(user.user_id, user.item_ids, [1000 * 2**place for place in range(len(user.item_ids))]) for user in USERS
    ]
    plain = make_reasoner("block-diffusion", sources()).infer(spread, catalogue(), slots=6, steps=2)
    assert plain == reasoner().infer(spread, catalogue(), slots=6, steps=2)
    between = make_reasoner("block-diffusion", sources(slots_between=3)).infer(spread, catalogue(), slots=6, steps=2)
    assert between == reasoner(between=3).infer(spread, catalogue(), slots=6, steps=2) != plain
    drawn = make_reasoner("block-diffusion", sources(temperature=2.0)).infer(spread, catalogue(), slots=6, steps=2)
    assert drawn != plain
    with pytest.raises(SettingError, match="FRESHET_REASONER__SCHEDULE is 'fast', wanted fixed, confidence or entropy"):
        sources(schedule="fast")
