"""The network as a denoiser, against the same network run in one uncached pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.block_denoiser import BlockDenoiser, Reading
from models.block_diffusion import MASK_ROW, rotations
from models.infill import Layout, layout
from tests.models.reasoner_tools import network, unit_vectors

ITEMS, SLOTS = 30, 4
NETWORK = network(ITEMS)
EMBEDDINGS, BIAS = NETWORK.embed(torch.from_numpy(unit_vectors(ITEMS)), torch.arange(ITEMS))


def histories(users: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 12, size=users)
    return [rng.integers(ITEMS, size=n) for n in lengths], [np.cumsum(rng.integers(0, 9, size=n)) for n in lengths]


def denoiser(rows: list[np.ndarray], layouts: list[Layout]) -> BlockDenoiser:
    return BlockDenoiser(NETWORK, EMBEDDINGS, BIAS, Reading.of(rows, layouts, 200))


def uncached(rows: np.ndarray, of: Layout, slots: Tensor) -> Tensor:
    """Logits (S, N) in one pass without a cache: history causal, the block bidirectional."""
    head = rows[: len(rows) - of.observed]
    width = SLOTS + of.observed
    block = torch.full((width,), MASK_ROW)
    block[of.events] = torch.from_numpy(rows[len(rows) - of.observed :])
    block[of.slots] = slots
    whole = torch.cat([torch.from_numpy(head), block.clamp(min=0)])
    masked = torch.cat([torch.zeros(len(head), dtype=torch.bool), block == MASK_ROW])
    clean = EMBEDDINGS[whole][None]
    noisy = torch.where(masked[None, :, None], NETWORK.mask, clean)
    x = torch.cat([NETWORK.start[None, None], clean[:, : len(head)], noisy[:, len(head) :]], dim=1)
    positions = torch.arange(x.shape[1])
    inside = positions > len(head)
    sees = (positions[:, None] >= positions[None, :]) | (inside[:, None] & inside[None, :])
    rotation = rotations(positions, NETWORK.config)
    for layer in NETWORK.stack:
        q, k, v = layer.project(x, rotation)
        x = layer.finish(x, q, k, v, sees)
    states = NETWORK.norm(x)[0, len(head) :]  # state at p - 1 predicts p
    return NETWORK.scores(states[torch.from_numpy(of.slots)], EMBEDDINGS, BIAS)


@pytest.mark.parametrize("between", [0, 2, 4])
def test_cached_equals_uncached_also_between_behaviours(between):
    """Catches a prefix cache, a padding or an observed behaviour in the block that changes what a slot reads."""
    rows, times = histories(9)
    layouts = [layout(each, SLOTS, between, tail=5) for each in times]
    assert between == 0 or {of.observed for of in layouts} != {0}
    slots = torch.full((9, SLOTS), MASK_ROW)
    slots[:, 1] = torch.arange(9)
    logits = denoiser(rows, layouts)(slots, torch.arange(SLOTS).expand(9, -1))
    for user in range(9):
        torch.testing.assert_close(logits[user], uncached(rows[user], layouts[user], slots[user]), rtol=1e-4, atol=1e-4)


def test_a_slot_between_behaviours_reads_what_comes_after_it():
    """Catches infilling that only looks back."""
    of = [layout([0, 10, 20], SLOTS, 2, tail=3)]
    masks = torch.full((1, SLOTS), MASK_ROW)
    first = torch.tensor([[0]])
    one = denoiser([np.array([3, 4, 5])], of)(masks, first)
    other = denoiser([np.array([3, 4, 6])], of)(masks, first)
    assert not torch.allclose(one, other)


def test_candidates_score_as_the_whole_catalogue_does():
    """Catches columns mistaken for rows, on the way in and on the way out."""
    rows, times = histories(5)
    layouts = [layout(each, SLOTS, 2, tail=5) for each in times]
    of_rows, of_columns = denoiser(rows, layouts), denoiser(rows, layouts)
    candidates = torch.stack([torch.randperm(ITEMS)[:12] for _ in range(5)])
    of_columns.candidates = torch.where(torch.arange(12) == 7, -1, candidates)
    columns = torch.full((5, SLOTS), MASK_ROW)
    columns[:, 2] = 3
    slots = torch.where(columns == 3, candidates[:, 3:4], MASK_ROW)
    places = torch.tensor([[0, 1, 3]]).expand(5, -1)
    whole, few = of_rows(slots, places), of_columns(columns, places)
    assert few.shape == (5, 3, 12)
    assert (few[..., 7] == -torch.inf).all()
    kept = torch.arange(12) != 7
    expected = whole.gather(2, candidates[:, None].expand(-1, 3, -1))
    torch.testing.assert_close(few[..., kept], expected[..., kept], rtol=1e-4, atol=1e-4)
