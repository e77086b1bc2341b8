from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.block_diffusion import MASK_ROW
from models.sampler import GROUP, Block, Plan, denoise, top

NOTHING = (torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))


def table(users: int, slots: int, items: int, seed: int = 0) -> Tensor:
    return torch.randn(users, slots, items, generator=torch.Generator().manual_seed(seed))


def fixed_denoiser(logits: Tensor):
    """Slots that do not look at each other."""

    def denoiser(slots: Tensor, open_: Tensor) -> Tensor:
        return logits.gather(1, open_[..., None].expand(-1, -1, logits.shape[-1])).clone()

    return denoiser


def check(block: Block, users: int, slots: int) -> None:
    assert block.rows.shape == (users, slots)
    assert (block.rows != MASK_ROW).all()
    assert all(len(set(row)) == slots for row in block.rows.tolist())
    assert ((block.confidences > 0) & (block.confidences <= 1)).all()


@pytest.mark.parametrize(
    ("slots", "steps", "counts"),
    [(16, 1, (16,)), (16, 2, (8, 8)), (16, 3, (5, 5, 6)), (5, 2, (2, 3)), (3, 9, (1, 1, 1))],
)
def test_the_schedule_fixes_every_slot(slots, steps, counts):
    assert Plan(slots, steps).counts() == counts


@settings(deadline=None, max_examples=60)
@given(
    slots=st.integers(1, 9),
    steps=st.integers(1, 9),
    users=st.integers(1, 4),
    spare=st.integers(0, 40),
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 99),
)
def test_every_slot_is_filled_no_item_twice_none_forbidden(slots, steps, users, spare, temperature, seed):
    items = slots + spare + 3
    # All slots want the same few items: collisions inside a step are the rule.
    logits = table(users, 1, items, seed).expand(-1, slots, -1) * 3
    struck = (torch.arange(users).repeat_interleave(3), torch.randperm(items)[:3].repeat(users))
    block = denoise(fixed_denoiser(logits), struck, list(range(users)), Plan(slots, steps, temperature))
    check(block, users, slots)
    assert not np.isin(block.rows.numpy(), struck[1].numpy()).any()


def test_one_slot_a_step_equals_brute_force_on_a_joint():
    """A denoiser with the exact conditionals of a joint: greedy must follow them as enumeration does."""
    slots, items = 3, 4
    joint = torch.rand(items, items, items, generator=torch.Generator().manual_seed(5))
    joint /= joint.sum()

    def conditional(known: list[int], slot: int) -> Tensor:
        """Unnormalised p(slot | known), by summing the joint."""
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

    def denoiser(rows: Tensor, open_: Tensor) -> Tensor:
        [known], [asked] = rows.tolist(), open_.tolist()
        return torch.stack([conditional(known, slot) for slot in asked])[None].log()

    block = denoise(denoiser, NOTHING, [0], Plan(slots, slots))
    assert block.rows.tolist() == [expected]
    torch.testing.assert_close(block.confidences, torch.tensor([confidences]))


def test_neighbours_do_not_matter():
    logits = table(5, 6, 50)
    struck = (torch.arange(5), torch.arange(5))
    together = denoise(fixed_denoiser(logits), struck, [7, 8, 9, 10, 11], Plan(6, 3, 0.7))
    for user in range(5):
        alone = denoise(
            fixed_denoiser(logits[user : user + 1]), (torch.zeros(1).long(), struck[1][user : user + 1]), [7 + user],
            Plan(6, 3, 0.7),
        )  # fmt: skip
        assert alone.rows[0].tolist() == together.rows[user].tolist()


def test_the_seed_decides_only_above_temperature_zero():
    logits = table(1, 6, 200) * 0.1

    def rows(seed: int, temperature: float) -> list[list[int]]:
        return denoise(fixed_denoiser(logits), NOTHING, [seed], Plan(6, 2, temperature)).rows.tolist()

    assert rows(1, 1.0) == rows(1, 1.0)
    assert rows(1, 1.0) != rows(2, 1.0)
    assert rows(1, 0.0) == rows(2, 0.0)


def test_a_deadline_leaves_a_usable_part():
    asked = iter([False, True])
    block = denoise(fixed_denoiser(table(2, 4, 20)), NOTHING, [0, 1], Plan(4, 2), expired=lambda: next(asked))
    assert block.degraded
    assert (block.rows != MASK_ROW).sum(1).tolist() == [2, 2]
    assert ((block.confidences > 0) == (block.rows != MASK_ROW)).all()


def test_fewer_items_than_slots_leave_slots_open():
    block = denoise(fixed_denoiser(table(1, 6, 4)), (torch.tensor([0]), torch.tensor([2])), [0], Plan(6, 2))
    filled = [row for row in block.rows[0].tolist() if row != MASK_ROW]
    assert sorted(filled) == [0, 1, 3]


def test_an_item_at_minus_infinity_is_never_inferred():
    logits = table(1, 3, 10)
    logits[..., 4] = -torch.inf
    logits[..., 5] = 50
    rows = denoise(fixed_denoiser(logits), NOTHING, [0], Plan(3, 1)).rows[0].tolist()
    assert 5 in rows
    assert 4 not in rows


@pytest.mark.parametrize("items", [3, 64, 200, 64 * 40, 64 * 40 + 17])
def test_top_equals_topk(items):
    logits = table(3, 2, items, seed=items)
    logits[0, 0, :GROUP] = -torch.inf
    count = min(8, items)
    values, at = top(logits, count)
    torch.testing.assert_close(values, logits.topk(count).values)
    torch.testing.assert_close(logits.gather(-1, at), values)


def test_a_plan_without_slots_is_refused():
    with pytest.raises(ValueError, match="slots"):
        Plan(slots=0)
