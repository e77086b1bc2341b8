from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.neighbours import FLOOR, NeighbourConfig, Neighbours, Offset, PairCounts, offsets_at_all_places
from models.sequences import Log

ITEMS = 12


def log(users: int = 30, length: int = 8, seed: int = 0) -> Log:
    rng = np.random.default_rng(seed)
    items = np.concatenate([rng.permutation(ITEMS)[:length] for _ in range(users)])
    return Log(np.repeat(np.arange(users), length), items, np.tile(np.arange(length), users), users)


def counted(of: Log, folds: int = 3, window: int = 2) -> PairCounts:
    return PairCounts(of, ITEMS, folds, np.random.default_rng(1), distinct=True, window=window)


def by_hand(of: Log, config: NeighbourConfig, users: set[int]) -> np.ndarray:
    """Weights (N, N) of pairs at most `window` events apart, counted one by one."""
    counts = np.zeros((ITEMS, ITEMS))
    for user in users:
        mine = of.items[of.users == user]
        for at, left in enumerate(mine):
            for right_at in range(at + 1, min(at + config.window + 1, len(mine))):
                counts[left, mine[right_at]] += 1 / (right_at - at)
                counts[mine[right_at], left] += 1 / (right_at - at)
    total = np.maximum(counts.sum(1), 1e-30)
    return counts / np.sqrt(total)[:, None] / total**config.damping


def dense(table: Neighbours) -> np.ndarray:
    made = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        for row, weight in zip(table.rows[item].tolist(), table.weights[item].tolist(), strict=True):
            if row >= 0:
                made[item, row] += weight
    return made


@pytest.mark.parametrize("without", [None, 0, 2])
def test_pairs_are_counted_as_by_hand_and_without_a_fold(without):
    """Catches a user whose own pairs are shown to it, and wrong windows, distances or damping."""
    of, config = log(), NeighbourConfig(window=2, most=ITEMS, damping=0.25)
    pairs = counted(of)
    assert set(pairs.fold_of_user) == {0, 1, 2}
    users = {user for user in range(30) if pairs.fold_of_user[user] != without}
    np.testing.assert_allclose(dense(pairs.table(config, without=without)), by_hand(of, config, users), rtol=1e-5)


def test_the_best_neighbours_are_kept():
    """Catches a table cut in the order of rows."""
    whole = dense(counted(log()).table(NeighbourConfig(window=2, most=ITEMS)))
    few = dense(counted(log()).table(NeighbourConfig(window=2, most=3)))
    for item in range(ITEMS):
        assert set(np.flatnonzero(few[item])) == set(np.argsort(-whole[item], kind="stable")[:3])


def test_events_of_one_time_have_no_order():
    """Catches pairs of a basket that depend on how it was stored."""
    one = Log(np.zeros(3, dtype=np.int64), np.array([1, 2, 3]), np.zeros(3, dtype=np.int64), 1)
    table = dense(PairCounts(one, ITEMS, 1, np.random.default_rng(0), distinct=True, window=2).table(NeighbourConfig()))
    assert table[1, 2] > 0
    assert table[1, 3] > 0
    assert table[2, 3] > 0


@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, 8), half_life=st.sampled_from([0.5, 3.0, 40.0]), seed=st.integers(0, 9))
def test_training_and_inference_see_the_same_offset(length, half_life, seed):
    """Catches a recursion over places that is not the sum over the history."""
    table = counted(log(seed=seed)).table(NeighbourConfig(window=2, most=ITEMS, half_life=half_life))
    history = torch.from_numpy(np.random.default_rng(seed).integers(ITEMS, size=(4, length)))
    at_all = offsets_at_all_places([table], torch.zeros(4).long(), history, torch.arange(ITEMS), ITEMS)
    assert (at_all[:, 0] == 0).all()
    for place in range(1, length):
        alone = table.offset(history[:, :place], torch.full((4,), place), ITEMS)
        torch.testing.assert_close(at_all[:, place], alone, rtol=1e-3, atol=1e-3)


def test_an_item_without_a_column_still_counts_in_the_sum():
    """Catches shares among candidates sold as shares among all."""
    table = counted(log()).table(NeighbourConfig(window=2, most=ITEMS))
    history = torch.tensor([[1, 5, 7]])
    whole = offsets_at_all_places([table], torch.zeros(1).long(), history, torch.arange(ITEMS), ITEMS)
    place = torch.full((ITEMS,), 2)
    place[[4, 9]] = torch.tensor([0, 1])
    few = offsets_at_all_places([table], torch.zeros(1).long(), history, place, 2)
    torch.testing.assert_close(few, whole[..., [4, 9]])


def test_an_item_read_as_new_has_no_neighbours_and_is_none():
    """Catches a network that learns new items with help they will not have."""
    table = counted(log()).table(NeighbourConfig(window=2, most=ITEMS))
    known = torch.arange(ITEMS) != 5
    given = [table], torch.zeros(1).long()
    at_all = offsets_at_all_places(*given, torch.tensor([[1, 5, 7]]), torch.arange(ITEMS), ITEMS, known)
    assert (at_all[..., 5] == 0).all()
    whole = offsets_at_all_places(*given, torch.tensor([[1, 5, 7]]), torch.arange(ITEMS), ITEMS)
    assert (whole[0, 1, 5] > 0) or (whole[0, 2] > 0).any()
    torch.testing.assert_close(at_all[0, 2], at_all[0, 1])  # the new item of the history adds nothing


def test_padding_and_unknown_items_add_nothing():
    """Catches row 0 that collects what padding and strangers leave."""
    table = counted(log()).table(NeighbourConfig(window=2, most=ITEMS))
    plain = table.offset(torch.tensor([[3, 8]]), torch.tensor([2]), ITEMS)
    padded = table.offset(torch.tensor([[3, 8, 0, 0]]), torch.tensor([2]), ITEMS)
    torch.testing.assert_close(plain, padded)
    assert (table.offset(torch.tensor([[-1, -1]]), torch.tensor([2]), ITEMS) == 0).all()


@settings(deadline=None, max_examples=40)
@given(
    entries=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.floats(0, 1)), min_size=1, max_size=30),
    count=st.integers(1, 12),
)
def test_offsets_of_some_items_are_those_of_all(entries, count):
    """Catches duplicates that are not summed, users that are mixed, and a best that is not the best."""
    rows, shares = torch.zeros(2, len(entries), dtype=torch.long), torch.zeros(2, len(entries))
    for place, (user, row, share) in enumerate(entries):
        rows[user, place], shares[user, place] = row, share
    offset = Offset(rows, shares)
    whole = offset.dense(10)
    asked = torch.tensor([[0, 3, -1, 9], [9, -1, 5, 1]])
    expected = torch.where(asked >= 0, whole.gather(1, asked.clamp(min=0)), 0.0)
    torch.testing.assert_close(offset.at(asked), expected)
    for user, best in enumerate(offset.best(count).tolist()):
        found = [row for row in best if row >= 0]
        assert len(found) == len(set(found)) == min(count, int((whole[user] > 0).sum()))
        torch.testing.assert_close(whole[user][found], whole[user].sort(descending=True).values[: len(found)])


def test_the_offset_is_zero_for_what_is_no_neighbour_and_grows_with_the_share():
    """Catches a floor that is forgotten."""
    made = Offset(torch.tensor([[1, 2]]), torch.tensor([[0.25, 0.75]])).dense(4)[0]
    assert made[0] == made[3] == 0
    torch.testing.assert_close(made[1:3], torch.log1p(torch.tensor([0.25, 0.75]) / FLOOR))
