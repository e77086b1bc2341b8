"""The decoder on tiny random networks in float64, against the plain forward over all tokens at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from models.text_diffusion.decoding import decode
from models.text_diffusion.masked_network import Block, MaskedNetwork
from tests.models.text_diffusion.tiny import EOS_ID, MASK_ID, VOCABULARY, network

KINDS = [("llama", False), ("qwen2", True)]


def rows(*lengths: int, seed: int = 0, masks: int = 0) -> list[list[int]]:
    """Random given tokens, the last `masks` of each row masked."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(0, 256, (length,), generator=generator).tolist() for length in lengths]
    return [row[: len(row) - masks] + [MASK_ID] * masks for row in drawn]


def uncached_states(net: MaskedNetwork, blocks: Sequence[Sequence[int]]) -> Tensor:
    """States (T, D) of one user's blocks in a single forward without cache, under the block-causal mask."""
    tokens = torch.tensor([[token for block in blocks for token in block]])
    number = torch.tensor([at for at, block in enumerate(blocks) for _ in block])
    sees = number[:, None] >= number[None, :]
    mask = torch.zeros(1, 1, len(number), len(number), dtype=torch.float64)
    mask.masked_fill_(~sees, torch.finfo(torch.float64).min)
    return net.model.model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state[0]


def uncached_decode(net: MaskedNetwork, blocks: list[list[int]], threshold: float) -> list[list[int]]:
    """The decoding rule written plainly: one user, every token recomputed at every step."""
    done: list[list[int]] = []
    for block in blocks:
        block = list(block)
        while MASK_ID in block:
            states = uncached_states(net, [*done, block])[-len(block) :]
            if net.shifted:
                states = torch.cat([states[:1], states[:-1]])
            logits = net.model.lm_head(states).float()
            logits[:, MASK_ID] = -torch.inf
            share, token = logits.softmax(-1).max(-1)
            open_ = [at for at, one in enumerate(block) if one == MASK_ID]
            best = max(open_, key=lambda at: float(share[at]))
            for at in open_:
                if at == best or share[at] >= threshold:
                    block[at] = int(token[at])
        done.append(block)
    return done


@pytest.mark.parametrize(("kind", "shifted"), KINDS)
@torch.inference_mode()
def test_cached_states_are_those_of_one_forward(kind: str, shifted: bool) -> None:
    """Catches a cache that keeps the states of masks, wrong positions, or a block that is not bidirectional."""
    net = network(kind, shifted=shifted)
    first, second, third = rows(7)[0], rows(5, seed=1)[0], rows(6, seed=2)[0]
    prefix = net.prefix(1)
    for block in (first, second):
        net.read(prefix, Block.of([[block[0], *[MASK_ID] * (len(block) - 1)]]), torch.zeros(1, len(block)).bool())
        net.extend(prefix, Block.of([block]))
    states = net._states(prefix, Block.of([third]))[0]
    torch.testing.assert_close(states, uncached_states(net, [first, second, third])[12:], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "shifted"), KINDS)
@torch.inference_mode()
def test_a_block_is_bidirectional_and_a_prefix_is_not(kind: str, shifted: bool) -> None:
    """Catches a causal mask left in place: then a token could not see what comes after it in its block."""
    net = network(kind, shifted=shifted)
    block = rows(6)[0]
    changed = [*block[:-1], (block[-1] + 1) % 256]
    one, other = uncached_states(net, [block]), uncached_states(net, [changed])
    assert not torch.allclose(one[0], other[0])
    alone, followed = uncached_states(net, [block]), uncached_states(net, [block, changed])[:6]
    torch.testing.assert_close(alone, followed)
    full = net.model.model(
        input_ids=torch.tensor([block]), attention_mask=torch.zeros(1, 1, 6, 6, dtype=torch.float64), use_cache=False
    ).last_hidden_state[0]
    torch.testing.assert_close(alone, full)


@pytest.mark.parametrize(("kind", "shifted"), KINDS)
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.9, 1.1])
def test_decoding_equals_the_rule_written_plainly(kind: str, shifted: bool, threshold: float) -> None:
    """Catches a cached decoder that gives other tokens than recomputing everything does."""
    net = network(kind, shifted=shifted)
    blocks = [rows(9)[0], rows(8, seed=1, masks=5)[0], rows(7, seed=2, masks=6)[0]]
    with torch.inference_mode():
        wanted = uncached_decode(net, blocks, threshold)
    found = decode(net, [Block.of([block]) for block in blocks], threshold=threshold)
    assert [one.tokens[0].tolist() for one in found] == wanted


def test_users_of_other_lengths_do_not_change_an_answer() -> None:
    """Catches padding that is attended to, or that shifts positions."""
    net = network()
    users = [
        [rows(9)[0], rows(8, seed=1, masks=5)[0], rows(7, seed=2, masks=3)[0]],
        [rows(4, seed=3)[0], [], rows(12, seed=4, masks=9)[0]],
        [rows(14, seed=5)[0], rows(3, seed=6, masks=2)[0], rows(5, seed=7, masks=4)[0]],
    ]
    together = decode(net, [Block.of([user[at] for user in users]) for at in range(3)], threshold=0.3)
    for place, user in enumerate(users):
        alone = decode(net, [Block.of([block]) for block in user if block], threshold=0.3)
        mine = [one.tokens[place, : len(block)].tolist() for one, block in zip(together, user, strict=True) if block]
        assert mine == [one.tokens[0].tolist() for one in alone]


@pytest.mark.parametrize(("kind", "shifted"), KINDS)
def test_only_masks_are_filled_and_with_no_mask(kind: str, shifted: bool) -> None:
    """Catches a decoder that rewrites the user's log, or that answers with the mask itself."""
    net = network(kind, shifted=shifted)
    block = [5, MASK_ID, 7, MASK_ID, MASK_ID, 9]
    [_, found] = decode(net, [Block.of(rows(6)), Block.of([block])], threshold=0.9)
    filled = found.tokens[0].tolist()
    assert [filled[at] for at in (0, 2, 5)] == [5, 7, 9]
    assert MASK_ID not in filled
    assert all(0 <= token < VOCABULARY for token in filled)
    assert found.probabilities[0, [0, 2, 5]].tolist() == [1, 1, 1]
    assert (found.probabilities[0, [1, 3, 4]] < 1).all()
    assert not found.open.any()


def test_a_threshold_nobody_reaches_fixes_one_token_a_step_and_zero_fixes_all() -> None:
    """Catches a decoder that never ends, or that takes more steps than tokens."""
    net = network()
    blocks = [Block.of(rows(6, 4, seed=1)), Block.of(rows(9, 5, seed=2, masks=4))]
    assert decode(net, blocks, threshold=1.1)[1].steps == 4
    assert decode(net, blocks, threshold=0.0)[1].steps == 1


def test_the_same_blocks_give_the_same_tokens() -> None:
    """Catches randomness in a greedy decoder, and tokens of the caller that it overwrites."""
    net = network()
    block = Block.of(rows(9, masks=6))
    before = block.tokens.clone()
    one, other = (decode(net, [block])[0].tokens for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(block.tokens, before)


def test_the_deadline_leaves_the_rest_open() -> None:
    """Catches a deadline that is not looked at between steps, or tokens given out that were never read."""
    net = network()
    calls = iter([False, False, False, True])
    blocks = [Block.of(rows(6)), Block.of(rows(8, masks=6)), Block.of(rows(7, masks=4))]
    first, second, third = decode(net, blocks, threshold=1.1, expired=lambda: next(calls, True))
    assert not first.open.any()
    assert (second.steps, int(second.open.sum())) == (2, 4)
    assert (second.tokens[second.open] == MASK_ID).all()
    assert (third.steps, int(third.open.sum())) == (0, 4)


def test_a_shifted_model_needs_a_given_first_token() -> None:
    """Catches a first token that is read from another block's, or another row's, state."""
    with pytest.raises(AssertionError, match="first token"):
        decode(network("qwen2", shifted=True), [Block.of([[MASK_ID, 3]])])


def test_the_mask_is_never_read() -> None:
    """Catches a mask that fills a mask, which would never end; an end of text may be read."""
    net = network()
    block = Block.of([[1, MASK_ID]])
    with torch.inference_mode():
        state = net._states(net.prefix(1), block)[0, 1].clone()
    head = torch.zeros_like(net.model.lm_head.weight)
    head[[MASK_ID, EOS_ID]] = torch.stack([2 * state, state])
    net.model.lm_head.weight.data = head
    assert decode(net, [block])[0].tokens[0].tolist() == [1, EOS_ID]
