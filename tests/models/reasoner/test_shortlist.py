from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.reasoner import shortlist
from models.reasoner.shortlist import CandidateIndex

WIDTH = 6
SHAPES = {
    "items": st.integers(1, 300),
    "users": st.integers(1, 5),
    "count": st.integers(1, 64),
    "seed": st.integers(0, 999),
}


def whole(shape: tuple[int, ...], seed: int) -> Tensor:
    """Small whole numbers: exact in any precision, so that a bfloat16 index can be held to equality."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


def real(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def indexed(embeddings: Tensor, bias: Tensor, dtype: torch.dtype | None = torch.float32) -> CandidateIndex:
    index = CandidateIndex(embeddings.shape[1], dtype=dtype)
    index.update(torch.arange(len(embeddings)), embeddings, bias)
    return index


def kept(rows: Tensor) -> list[set[int]]:
    """The rows of each user, once none is known to come twice."""
    for row in rows.tolist():
        named = [each for each in row if each >= 0]
        assert len(named) == len(set(named))
    return [set(row) - {-1} for row in rows.tolist()]


def best(scores: Tensor, count: int) -> list[set[int]]:
    return [set(row.tolist()) for row in scores.topk(min(count, scores.shape[1])).indices]


@settings(deadline=None, max_examples=80)
@given(**SHAPES)
def test_the_best_of_all_items_none_twice(items, users, count, seed):
    """Catches a scan that loses an item between two groups or chunks, or names one twice."""
    embeddings, bias, states = real((items, WIDTH), seed), real((items,), seed + 1), real((users, WIDTH), seed + 2)
    found = indexed(embeddings, bias).shortlist(states, count)
    assert kept(found.rows) == best(states @ embeddings.T + bias, count)


@settings(deadline=None, max_examples=40)
@given(**SHAPES)
def test_half_precision_is_exact_where_it_can_be(items, users, count, seed):
    """Catches a bfloat16 scan that accumulates in bfloat16: sums of small products must come out whole."""
    embeddings, bias, states = whole((items, WIDTH), seed), whole((items,), seed + 1), whole((users, WIDTH), seed + 2)
    found = indexed(embeddings, bias, torch.bfloat16).shortlist(states, count)
    scores = states @ embeddings.T + bias
    wanted = scores.topk(min(count, items)).values.tolist()
    rows = kept(found.rows)
    assert [sorted((float(scores[user, row]) for row in of), reverse=True) for user, of in enumerate(rows)] == wanted


@settings(deadline=None, max_examples=40)
@given(items=st.integers(2, 200), seed=st.integers(0, 999), count=st.integers(1, 220), data=st.data())
def test_removed_items_never_come_and_changes_count_at_once(items, seed, count, data):
    """Catches a stale row, a removed item that comes back as padding, and an index that differs from a fresh one."""
    embeddings, bias, states = real((items, WIDTH), seed), real((items,), seed + 1), real((3, WIDTH), seed + 2)
    index = indexed(embeddings, bias)
    index.shortlist(states, count)
    changed = torch.tensor(sorted(data.draw(st.sets(st.integers(0, items + 40), min_size=1, max_size=20))))
    size = max(items, int(changed.max()) + 1)
    embeddings = torch.cat([embeddings, torch.zeros(size - items, WIDTH)])
    bias = torch.cat([bias, torch.full((size - items,), -torch.inf)])
    embeddings[changed] = real((len(changed), WIDTH), seed + 3)
    bias[changed] = torch.where(real((len(changed),), seed + 4) > 0, -torch.inf, real((len(changed),), seed + 5))
    index.update(changed, embeddings[changed], bias[changed])
    scores = states @ embeddings.T + bias
    wanted = [{row for row in rows if scores[user, row] > -torch.inf} for user, rows in enumerate(best(scores, count))]
    assert kept(index.shortlist(states, count).rows) == wanted


@settings(deadline=None, max_examples=40)
@given(**SHAPES, struck=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 299)), max_size=60))
def test_forbidden_items_leave_their_places_to_others(items, users, count, seed, struck):
    """Catches a forbidden item, one user's forbidden items struck from another, and a shortlist they make shorter."""
    embeddings, bias, states = real((items, WIDTH), seed), real((items,), seed + 1), real((users, WIDTH), seed + 2)
    pairs = [(user, row) for user, row in struck if user < users and row < items]
    of_user, rows = (torch.tensor([pair[part] for pair in pairs], dtype=torch.long) for part in (0, 1))
    found = indexed(embeddings, bias).shortlist(states, count, (of_user, rows))
    scores = states @ embeddings.T + bias
    scores[of_user, rows] = -torch.inf
    allowed = [set(torch.nonzero(row > -torch.inf)[:, 0].tolist()) for row in scores]
    assert kept(found.rows) == [of & listed for of, listed in zip(best(scores, count), allowed, strict=True)]


def test_a_removed_item_may_have_any_vector():
    """Catches 0 * inf: one broken vector of a removed item must not turn a user's scores into nan."""
    embeddings, bias = real((70, WIDTH), 0), real((70,), 1)
    embeddings[5], bias[5] = torch.inf, -torch.inf
    states = torch.zeros(1, WIDTH)
    assert kept(indexed(embeddings, bias).shortlist(states, 80).rows) == [set(range(70)) - {5}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neighbors_and_the_size_of_a_pass_do_not_matter(dtype, monkeypatch):
    """Catches scores of one user in the buffer of another, also where many users take several passes."""
    embeddings, bias, states = whole((500, WIDTH), 0), real((500,), 1), whole((7, WIDTH), 2)
    index = indexed(embeddings, bias, dtype)
    struck = torch.arange(7), torch.arange(100, 107)
    together = index.shortlist(states, 20, struck)
    for user in range(7):
        alone = index.shortlist(states[user : user + 1], 20, (torch.tensor([0]), struck[1][user : user + 1]))
        assert kept(alone.rows)[0] == kept(together.rows)[user]
    monkeypatch.setattr(shortlist, "SCORES_AT_ONCE", 1_100)
    monkeypatch.setattr(shortlist, "CHUNK", 64)
    assert kept(index.shortlist(states, 20, struck).rows) == kept(together.rows)


def test_fewer_items_than_wanted():
    """Catches rows of the unused end of the table."""
    found = indexed(real((3, WIDTH), 0), real((3,), 1)).shortlist(real((2, WIDTH), 2), 50)
    assert kept(found.rows) == [{0, 1, 2}] * 2
    assert (found.rest(real((2, 4, WIDTH), 3)) == -torch.inf).all()


def test_an_empty_index_and_no_users():
    """Catches a first call before the catalogue has arrived."""
    assert not CandidateIndex(WIDTH).shortlist(real((2, WIDTH), 0), 5).rows.numel()
    assert indexed(real((9, WIDTH), 0), real((9,), 1)).shortlist(torch.zeros(0, WIDTH), 5).rows.shape[0] == 0


def test_the_rest_is_exact_where_the_sample_holds_every_item():
    """Catches an item counted both in the shortlist and in the rest, or in neither."""
    embeddings, bias, states = real((300, WIDTH), 0), real((300,), 1), real((4, 3, WIDTH), 2)
    bias[:40] = -torch.inf
    struck = (torch.tensor([0, 2, 2, 3, 3]), torch.tensor([50, 60, 61, 50, 50]))
    found = indexed(embeddings, bias).shortlist(states.mean(1), 32, struck)
    scores = states @ embeddings.T + bias
    scores[struck[0], :, struck[1]] = -torch.inf
    inside = scores.gather(2, found.rows[:, None].expand(-1, 3, -1)).logsumexp(-1)
    torch.testing.assert_close(torch.logaddexp(inside, found.rest(states)), scores.logsumexp(-1), rtol=1e-4, atol=1e-4)


def test_the_rest_is_close_where_a_sample_stands_for_it():
    """Catches a wrong weight: 512 items must speak for all the others."""
    embeddings, bias, states = 0.5 * real((20_000, WIDTH), 0), real((20_000,), 1), real((8, 2, WIDTH), 2)
    found = indexed(embeddings, bias).shortlist(states.mean(1), 256)
    scores = states @ embeddings.T + bias
    inside = scores.gather(2, found.rows[:, None].expand(-1, 2, -1)).logsumexp(-1)
    off = torch.logaddexp(inside, found.rest(states)) - scores.logsumexp(-1)
    assert off.abs().mean() < 0.1
    assert off.abs().max() < 0.3


def test_the_sample_stays_until_something_changes():
    """Catches confidences that move although nothing did."""
    index, states = indexed(real((3_000, WIDTH), 0), real((3_000,), 1)), real((2, 1, WIDTH), 2)
    first, again = (index.shortlist(states[:, 0], 16).rest(states) for _ in range(2))
    assert torch.equal(first, again)
    index.update(torch.tensor([1]), real((1, WIDTH), 5), torch.tensor([9.0]))
    assert 1 in kept(index.shortlist(states[:, 0], 16).rows)[0]
