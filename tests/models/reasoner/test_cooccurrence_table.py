from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.reasoner.cooccurrence_table import FLOOR, NeighborConfig, NeighborTable, Offset, count_pairs, neighbors
from models.reasoner.sequences import TrainingLog

ITEMS = 12


def log(users: int = 30, length: int = 8, seed: int = 0) -> TrainingLog:
    rng = np.random.default_rng(seed)
    items = np.concatenate([rng.permutation(ITEMS)[:length] for _ in range(users)])
    return TrainingLog(np.repeat(np.arange(users), length), items, np.tile(np.arange(length), users), users)


def table_of(of: TrainingLog, **config: float) -> NeighborTable:
    made = NeighborConfig(**{"window": 2, "most": ITEMS, **config})  # type: ignore[arg-type]
    return neighbors(count_pairs(of, ITEMS, np.random.default_rng(1), distinct=True, window=made.window), ITEMS, made)


def by_hand(of: TrainingLog, config: NeighborConfig, users: set[int]) -> np.ndarray:
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


def dense(table: NeighborTable) -> np.ndarray:
    made = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        for row, weight in zip(table.rows[item].tolist(), table.weights[item].tolist(), strict=True):
            if row >= 0:
                made[item, row] += weight
    return made


@pytest.mark.parametrize("damping", [0.0, 0.25])
def test_pairs_are_counted_as_by_hand(damping):
    """Catches wrong windows, distances or damping, and users that run into one another."""
    of = log()
    config = NeighborConfig(window=2, most=ITEMS, damping=damping)
    np.testing.assert_allclose(dense(table_of(of, damping=damping)), by_hand(of, config, set(range(30))), rtol=1e-5)


def test_the_best_neighbors_are_kept():
    """Catches a table cut in the order of rows."""
    whole, few = dense(table_of(log())), dense(table_of(log(), most=3))
    for item in range(ITEMS):
        assert set(np.flatnonzero(few[item])) == set(np.argsort(-whole[item], kind="stable")[:3])


def test_events_of_one_time_have_no_order():
    """Catches pairs of a basket that depend on how it was stored."""
    one = TrainingLog(np.zeros(3, dtype=np.int64), np.array([1, 2, 3]), np.zeros(3, dtype=np.int64), 1)
    table = dense(table_of(one))
    assert (table[[1, 1, 2], [2, 3, 3]] > 0).all()


def test_a_history_is_summed_with_decay():
    """Catches a history read from the wrong end."""
    table = table_of(log(), half_life=2.0)
    weights = dense(table)
    expected = sum(weights[item] * 0.5 ** (back / 2.0) for back, item in enumerate([7, 5, 1]))
    expected = np.log1p(expected / expected.sum() / FLOOR)
    made = table.offset(torch.tensor([[1, 5, 7]]), torch.tensor([3]), ITEMS)[0]
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_only_the_newest_items_are_read():
    """Catches a cost that grows with the history."""
    table = table_of(log(), half_life=1.0)
    history = torch.from_numpy(np.random.default_rng(0).integers(ITEMS, size=(1, 40)))
    rows, shares = table.of(history, torch.tensor([40]))
    assert rows.shape == shares.shape == (1, 5 * ITEMS)
    newest, of_newest = table.of(history[:, -5:], torch.tensor([5]))
    torch.testing.assert_close(Offset(rows, shares).dense(ITEMS), Offset(newest, of_newest).dense(ITEMS))


def test_padding_and_unknown_items_add_nothing():
    """Catches row 0 that collects what padding and strangers leave."""
    table = table_of(log())
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


def test_the_offset_is_zero_for_what_is_no_neighbor_and_grows_with_the_share():
    """Catches a floor that is forgotten."""
    made = Offset(torch.tensor([[1, 2]]), torch.tensor([[0.25, 0.75]])).dense(4)[0]
    assert made[0] == made[3] == 0
    torch.testing.assert_close(made[1:3], torch.log1p(torch.tensor([0.25, 0.75]) / FLOOR))
