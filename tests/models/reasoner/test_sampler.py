from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.reasoner.network import MASK_ROW
from models.reasoner.sampler import SampledBlock, SlotPlan, denoise, top

NOTHING = (torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))


def table(users: int, slots: int, items: int, seed: int = 0) -> Tensor:
    return torch.randn(users, slots, items, generator=torch.Generator().manual_seed(seed))


def fixed_denoiser(logits: Tensor):
    """Slots that do not look at each other."""

    def denoiser(slots: Tensor, open_: Tensor) -> tuple[Tensor, None]:
        return logits.gather(1, open_[..., None].expand(-1, -1, logits.shape[-1])).clone(), None

    return denoiser


def check(block: SampledBlock, users: int, slots: int) -> None:
    assert block.rows.shape == (users, slots)
    assert (block.rows != MASK_ROW).all()
    assert all(len(set(row)) == slots for row in block.rows.tolist())
    assert ((block.confidences > 0) & (block.confidences <= 1)).all()


@pytest.mark.parametrize(
    ("slots", "steps", "ends"),
    [(16, 1, (16,)), (16, 2, (8, 16)), (16, 3, (5, 10, 16)), (5, 2, (2, 5)), (3, 9, (1, 2, 3))],
)
def test_the_schedule_fixes_every_slot(slots, steps, ends):
    assert SlotPlan(slots, steps).ends() == ends


@settings(deadline=None, max_examples=60)
@given(
    slots=st.integers(1, 9),
    steps=st.integers(1, 9),
    users=st.integers(1, 4),
    spare=st.integers(0, 40),
    temperature=st.sampled_from([0.0, 1.0]),
    schedule=st.sampled_from([("fixed", 0.0), ("confidence", 0.2), ("entropy", 2.0)]),
    seed=st.integers(0, 99),
)
def test_every_slot_is_filled_no_item_twice_none_forbidden(slots, steps, users, spare, temperature, schedule, seed):
    items = slots + spare + 3
    # All slots want the same few items: collisions inside a step are the rule.
    logits = table(users, 1, items, seed).expand(-1, slots, -1) * 3
    struck = (torch.arange(users).repeat_interleave(3), torch.randperm(items)[:3].repeat(users))
    block = denoise(fixed_denoiser(logits), struck, list(range(users)), SlotPlan(slots, steps, temperature, *schedule))
    check(block, users, slots)
    assert not np.isin(block.rows.numpy(), struck[1].numpy()).any()


def test_one_slot_a_step_equals_brute_force_on_a_joint():
    """A denoiser with the exact conditionals of a joint: greedy must follow them as enumeration does."""
    slots, items = 3, 4
    joint = torch.rand(items, items, items, generator=torch.Generator().manual_seed(5))
    joint /= joint.sum()

    def conditional(known: list[int], slot: int) -> Tensor:
        """Unnormalized p(slot | known), by summing the joint."""
        mass = torch.zeros(items)
        for cell in itertools.product(range(items), repeat=slots):
            if all(k in (MASK_ROW, c) for k, c in zip(known, cell, strict=True)):
                mass[cell[slot]] += joint[cell]
        return mass

    expected, confidences = [MASK_ROW] * slots, [0.0] * slots
    for _ in range(slots):
        best = (-1.0, 0, 0)
        for slot in (s for s in range(slots) if expected[s] == MASK_ROW):
            mass = conditional(expected, slot)
            mass[[row for row in expected if row != MASK_ROW]] = 0
            mass /= mass.sum()
            best = max(best, (float(mass.max()), slot, int(mass.argmax())))
        confidences[best[1]], _, expected[best[1]] = best[0], None, best[2]

    def denoiser(rows: Tensor, open_: Tensor) -> tuple[Tensor, None]:
        [known], [asked] = rows.tolist(), open_.tolist()
        return torch.stack([conditional(known, slot) for slot in asked])[None].log(), None

    block = denoise(denoiser, NOTHING, [0], SlotPlan(slots, slots))
    assert block.rows.tolist() == [expected]
    torch.testing.assert_close(block.confidences, torch.tensor([confidences]))


@pytest.mark.parametrize("schedule", [("fixed", 0.0), ("confidence", 0.3), ("entropy", 2.5)])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_neighbors_do_not_matter(schedule, temperature):
    """Catches noise drawn by a batch's shape, and an adaptive schedule in which a sure user hurries the others."""
    logits = table(5, 6, 50) * torch.tensor([0.1, 1.0, 2.0, 4.0, 9.0])[:, None, None]
    struck = (torch.arange(5), torch.arange(5))
    plan = SlotPlan(6, 3, temperature, *schedule)
    together = denoise(fixed_denoiser(logits), struck, [7, 8, 9, 10, 11], plan)
    for user in range(5):
        forbidden = (torch.zeros(1).long(), struck[1][user : user + 1])
        alone = denoise(fixed_denoiser(logits[user : user + 1]), forbidden, [7 + user], plan)
        assert alone.rows[0].tolist() == together.rows[user].tolist()


def steps_taken(logits: Tensor, plan: SlotPlan) -> list[int]:
    """Slots still open at each call of the denoiser."""
    opened = []
    plain = fixed_denoiser(logits)

    def denoiser(slots: Tensor, open_: Tensor) -> tuple[Tensor, None]:
        opened.append(open_.shape[1])
        return plain(slots, open_)

    check(denoise(denoiser, NOTHING, list(range(len(logits))), plan), len(logits), plan.slots)
    return opened


def sure_of(slots: int, sure: int, items: int = 40) -> Tensor:
    """Slots of which the first `sure` are certain of an item each and the others know nothing."""
    logits = torch.zeros(1, slots, items)
    logits[0, torch.arange(sure), torch.arange(sure)] = 30.0
    return logits


@pytest.mark.parametrize("schedule", [("confidence", 0.9), ("entropy", 1.0)])
def test_an_adaptive_schedule_fixes_what_is_sure_at_once(schedule):
    """Catches a schedule that never fires, one that fires on everything, and one that is slower than the fixed."""
    assert steps_taken(sure_of(8, 8), SlotPlan(8, 8, 0.0, *schedule)) == [8]
    least = steps_taken(sure_of(8, 5), SlotPlan(8, 8, 0.0, *schedule))
    assert least[:2] == ([8, 3] if schedule[0] == "confidence" else [8, 2])
    assert len(least) < 8
    assert steps_taken(sure_of(8, 0), SlotPlan(8, 2, 0.0, *schedule)) == [8, 4]
    assert steps_taken(sure_of(8, 8), SlotPlan(8, 4)) == [8, 6, 4, 2]


def test_an_entropy_bound_is_over_the_sum_less_the_largest():
    """Catches a bound on each entropy by itself: two slots of log 40 nats must not go together under it."""
    entropy = float(np.log(40))
    assert steps_taken(sure_of(4, 0), SlotPlan(4, 4, 0.0, "entropy", entropy * 1.1)) == [4, 2]
    assert steps_taken(sure_of(4, 0), SlotPlan(4, 4, 0.0, "entropy", entropy * 0.9)) == [4, 3, 2, 1]


def test_the_seed_decides_only_above_temperature_zero():
    logits = table(1, 6, 200) * 0.1

    def rows(seed: int, temperature: float) -> list[list[int]]:
        return denoise(fixed_denoiser(logits), NOTHING, [seed], SlotPlan(6, 2, temperature)).rows.tolist()

    assert rows(1, 1.0) == rows(1, 1.0)
    assert rows(1, 1.0) != rows(2, 1.0)
    assert rows(1, 0.0) == rows(2, 0.0)


def test_a_deadline_leaves_a_usable_part():
    asked = iter([False, True])
    block = denoise(fixed_denoiser(table(2, 4, 20)), NOTHING, [0, 1], SlotPlan(4, 2), expired=lambda: next(asked))
    assert block.degraded
    assert (block.rows != MASK_ROW).sum(1).tolist() == [2, 2]
    assert ((block.confidences > 0) == (block.rows != MASK_ROW)).all()


def test_fewer_items_than_slots_leave_slots_open():
    block = denoise(fixed_denoiser(table(1, 6, 4)), (torch.tensor([0]), torch.tensor([2])), [0], SlotPlan(6, 2))
    filled = [row for row in block.rows[0].tolist() if row != MASK_ROW]
    assert sorted(filled) == [0, 1, 3]


def test_an_item_at_minus_infinity_is_never_inferred():
    logits = table(1, 3, 10)
    logits[..., 4] = -torch.inf
    logits[..., 5] = 50
    rows = denoise(fixed_denoiser(logits), NOTHING, [0], SlotPlan(3, 1)).rows[0].tolist()
    assert 5 in rows
    assert 4 not in rows


@pytest.mark.parametrize("items", [3, 64, 200, 64 * 40, 64 * 40 + 17])
@pytest.mark.parametrize("wanted", [1, 8])
def test_top_equals_topk(items, wanted):
    """Catches a group that is skipped, and items behind the last whole group."""
    logits = table(3, 2, items, seed=items)
    logits[0, 0, :64] = -torch.inf
    count = min(wanted, items)
    values, at = top(logits, wanted)
    torch.testing.assert_close(values, logits.topk(count).values)
    torch.testing.assert_close(logits.gather(-1, at), values)


def test_a_plan_without_slots_or_of_no_schedule_is_refused():
    with pytest.raises(ValueError, match="slots"):
        SlotPlan(slots=0)
    with pytest.raises(ValueError, match="fixed, confidence, entropy"):
        SlotPlan(schedule="fast")


def test_the_mass_of_unlisted_items_lowers_confidence():
    """Catches probabilities within a shortlist that are sold as probabilities within the catalogue."""
    logits = table(2, 3, 20)
    rest = logits.logsumexp(-1)  # as much again outside

    def denoiser(slots: Tensor, open_: Tensor) -> tuple[Tensor, Tensor]:
        return logits.clone(), rest

    alone = denoise(fixed_denoiser(logits), NOTHING, [0, 1], SlotPlan(3, 1))
    block = denoise(denoiser, NOTHING, [0, 1], SlotPlan(3, 1))
    assert block.rows.tolist() == alone.rows.tolist()
    torch.testing.assert_close(block.confidences, alone.confidences / 2)
