"""The network as a denoiser, against the same network run in one uncached pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.reasoner.denoiser import BlockDenoiser, Reading, Scratch
from models.reasoner.infill import SlotLayout, layout
from models.reasoner.network import MASK_ROW, rotations
from models.reasoner.shortlist import CandidateIndex, Shortlist
from tests.models.reasoner.reasoner_tools import network, unit_vectors

ITEMS, SLOTS = 30, 4
NETWORK = network(ITEMS)
EMBEDDINGS, BIAS = NETWORK.embed(torch.from_numpy(unit_vectors(ITEMS)), torch.arange(ITEMS))


def histories(users: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 12, size=users)
    return [rng.integers(ITEMS, size=n) for n in lengths], [np.cumsum(rng.integers(0, 9, size=n)) for n in lengths]


def denoiser(rows: list[np.ndarray], layouts: list[SlotLayout]) -> BlockDenoiser:
    return BlockDenoiser(NETWORK, EMBEDDINGS, BIAS, Reading.of(rows, layouts, 200))


def uncached(rows: np.ndarray, of: SlotLayout, slots: Tensor) -> Tensor:
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
def test_cached_equals_uncached_also_between_behaviors(between):
    """Catches a prefix cache, a padding or an observed behavior in the block that changes what a slot reads."""
    rows, times = histories(9)
    layouts = [layout(each, SLOTS, between, tail=5) for each in times]
    assert between == 0 or {of.observed for of in layouts} != {0}
    slots = torch.full((9, SLOTS), MASK_ROW)
    slots[:, 1] = torch.arange(9)
    logits, _ = denoiser(rows, layouts)(slots, torch.arange(SLOTS).expand(9, -1))
    for user in range(9):
        torch.testing.assert_close(logits[user], uncached(rows[user], layouts[user], slots[user]), rtol=1e-4, atol=1e-4)


def test_a_slot_between_behaviors_reads_what_comes_after_it():
    """Catches infilling that only looks back."""
    of = [layout([0, 10, 20], SLOTS, 2, tail=3)]
    masks = torch.full((1, SLOTS), MASK_ROW)
    first = torch.tensor([[0]])
    one, _ = denoiser([np.array([3, 4, 5])], of)(masks, first)
    other, _ = denoiser([np.array([3, 4, 6])], of)(masks, first)
    assert not torch.allclose(one, other)


def test_a_shortlist_scores_as_the_whole_catalogue_does():
    """Catches columns mistaken for rows, on the way in and on the way out, and a mass that is left out."""
    rows, times = histories(5)
    layouts = [layout(each, SLOTS, 2, tail=5) for each in times]
    index = CandidateIndex(EMBEDDINGS.shape[1], dtype=torch.float32)
    index.update(torch.arange(ITEMS), EMBEDDINGS, BIAS)
    made: list[Shortlist] = []

    def shortlists(states: Tensor) -> Shortlist:
        made.append(index.shortlist(states, 12))
        return made[-1]

    reading = Reading.of(rows, layouts, 200)
    listed = BlockDenoiser(NETWORK, EMBEDDINGS, BIAS, reading, shortlists=shortlists)
    places = torch.tensor([[0, 1, 3]]).expand(5, -1)
    listed(torch.full((5, SLOTS), MASK_ROW), places)
    columns = torch.full((5, SLOTS), MASK_ROW)
    columns[:, 2] = 3
    slots = listed.rows_of(columns)
    assert (slots[:, 2] == made[0].rows[:, 3]).all()
    whole, nothing = BlockDenoiser(NETWORK, EMBEDDINGS, BIAS, reading)(slots, places)
    few, rest = listed(columns, places)
    assert len(made) == 1
    assert nothing is None
    expected = whole.gather(2, made[0].rows[:, None].expand(-1, 3, -1))
    torch.testing.assert_close(few, expected, rtol=1e-4, atol=1e-4)
    assert rest is not None  # all items are in the sample: the mass is exact
    torch.testing.assert_close(torch.logaddexp(few.logsumexp(-1), rest), whole.logsumexp(-1), rtol=1e-4, atol=1e-4)


def test_kept_memory_does_not_leak_into_the_next_answer():
    """Catches logits of one batch read as another's."""
    scratch = Scratch()
    rows, times = histories(6)
    layouts = [layout(each, SLOTS, 0, tail=0) for each in times]
    places = torch.arange(SLOTS).expand(6, -1)
    masks = torch.full((6, SLOTS), MASK_ROW)

    def logits(users: int, memory: Scratch) -> Tensor:
        reading = Reading.of(rows[:users], layouts[:users], 200)
        made = BlockDenoiser(NETWORK, EMBEDDINGS, BIAS, reading, scratch=memory)
        return made(masks[:users], places[:users])[0].clone()

    for users in (6, 2, 5):
        torch.testing.assert_close(logits(users, scratch), logits(users, Scratch()))
