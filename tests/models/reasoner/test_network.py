from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from models.reasoner.network import NetworkConfig
from tests.models.reasoner.reasoner_tools import network

WIDTH = 16


def embeddings(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(3))


def test_the_cached_prefix_gives_the_training_pass():
    """A cache that is off by a position, or a mask that leaks, shows here: both passes must see the same."""
    model = network(1)
    clean, noisy = embeddings(2, 12), embeddings(2, 12) * -1
    _, shifted = model(clean, noisy, torch.tensor([12, 12]), 4)
    for block in range(3):
        past = slice(0, 4 * block)
        prefix = model.prefix(clean[:, past], torch.full((2,), 4 * block))
        states = model.block(prefix, noisy[:, 4 * block : 4 * block + 4])
        assert_close(states, shifted[:, 4 * block : 4 * block + 4])


def test_history_is_causal_and_the_block_is_not():
    model = network(1)
    clean, noisy = embeddings(1, 8), embeddings(1, 8)
    lengths = torch.tensor([8])
    dense, shifted = model(clean, noisy, lengths, 4)
    later = clean.clone()
    later[:, 5] *= -1
    dense_later, shifted_later = model(later, noisy, lengths, 4)
    assert_close(dense_later[:, :6], dense[:, :6])
    assert not torch.allclose(dense_later[:, 6], dense[:, 6])
    assert_close(shifted_later, shifted)  # position 5 is inside the last block: nobody sees its clean self
    turned = noisy.clone()
    turned[:, 7] *= -1
    _, shifted_turned = model(clean, turned, lengths, 4)
    assert_close(shifted_turned[:, :5], shifted[:, :5])
    assert not torch.allclose(shifted_turned[:, 5], shifted[:, 5])  # an early slot sees the last one


def test_padding_changes_nothing():
    model = network(1)
    history = embeddings(2, 6)
    lengths = torch.tensor([6, 3])
    both = model.prefix(history, lengths)
    alone = model.prefix(history[1:, :3], lengths[1:])
    slots = embeddings(2, 4)
    assert_close(model.block(both, slots)[1:], model.block(alone, slots[1:]))


def test_an_empty_history_still_has_a_state():
    model = network(1)
    states = model.block(model.prefix(embeddings(1, 0), torch.tensor([0])), embeddings(1, 3))
    assert states.shape == (1, 3, WIDTH)
    assert torch.isfinite(states).all()


def test_a_new_item_is_its_knowledge():
    model = network(3)
    vectors = torch.ones(1, 8)
    cold, cold_bias = model.embed(vectors, torch.tensor([-1]))
    known, known_bias = model.embed(vectors, torch.tensor([2]))
    assert_close(known - cold, model.ids[2:3])
    assert_close(cold_bias[0], model.cold_bias)
    assert_close(known_bias, model.bias[2:3])


def test_a_width_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="width"):
        NetworkConfig(items=1, width=30, heads=4)
