from __future__ import annotations

import numpy as np

from models.reasoner.sequences import (
    TrainingEvents,
    code,
    most_frequent,
    padded,
    questions,
    sequences,
    split_time,
    windows,
)
from tests.models.reasoner.reasoner_tools import told


def columns(*events: tuple[str, int, int]) -> tuple[TrainingEvents, list[int]]:
    """Events as (user, row, time)."""
    users, rows, times = zip(*events, strict=True)
    return TrainingEvents(users, [f"i{row}" for row in rows], np.array(times)), list(rows)


def test_histories_become_columns():
    events = TrainingEvents.of_histories([told("u", "a", "b"), told("v"), told("w", "c")])
    assert list(events.user_ids) == ["u", "u", "w"]
    assert list(events.item_ids) == ["a", "b", "c"]
    assert events.event_times.tolist() == [1000, 2000, 1000]


def test_events_are_sorted_and_unknown_items_left_out():
    log = code(*columns(("v", 1, 30), ("u", 2, 20), ("v", -1, 25), ("v", 3, 10)))
    assert log.users.tolist() == [0, 0, 1]
    assert log.items.tolist() == [3, 1, 2]


def test_the_most_frequent_rows_come_first_and_unseen_ones_never():
    assert most_frequent(np.array([5, 5, 1, 3, 3]), 2).tolist() == [3, 5]
    assert most_frequent(np.array([5, 5, 1]), 9).tolist() == [5, 1]


def test_distinct_sequences_keep_first_events():
    log = code(*columns(("u", 1, 10), ("u", 2, 20), ("u", 1, 30), ("v", 4, 5)))
    made = sequences(log, np.random.default_rng(0), distinct=True)
    assert made.items.tolist() == [1, 2, 4]
    assert made.lengths.tolist() == [2, 1]
    every = sequences(log, np.random.default_rng(0), distinct=False)
    assert every.items.tolist() == [1, 2, 1, 4]


def test_ties_are_shuffled_and_order_is_kept():
    log = code(*columns(*(("u", row, 10 if row < 8 else 20) for row in range(16))))
    orders = {tuple(sequences(log, np.random.default_rng(seed), distinct=True).items.tolist()) for seed in range(9)}
    assert len(orders) > 1
    assert all(set(order[:8]) == set(range(8)) for order in orders)


def test_windows_hold_real_neighbors():
    log = code(*columns(*(("u", row, row) for row in range(100)), ("v", 200, 1), ("w", 300, 1), ("w", 301, 2)))
    made = sequences(log, np.random.default_rng(0), distinct=True)
    seen = 0
    for rows, lengths in windows(made, 16, 4, np.random.default_rng(1)):
        for row, length in zip(rows, lengths, strict=True):
            real = row[:length]
            assert (np.diff(real) == 1).all()
            assert length in (16, 2)
            assert (row[length:] == 0).all()
            seen += 1
    assert seen == 7 + 1  # ceil(100 / 16) windows of u, one of w, none of v who has one item


def test_questions_ask_only_what_comes_after_the_split():
    log = code(*columns(
        ("u", 1, 10), ("u", 2, 20), ("u", 3, 110), ("u", 1, 120),  # both kinds
        ("v", 1, 10), ("v", 2, 20),                                # nothing after
        ("w", 1, 110), ("w", 2, 120),                              # nothing before
        ("x", 1, 10), ("x", 2, 20), ("x", 1, 130),                 # only a repeat after
    ))  # fmt: skip
    novel, every = questions(log, 100, 10, np.random.default_rng(0))
    assert [(q.history.tolist(), q.target) for q in novel] == [([1, 2], 3)]
    assert sorted((q.history.tolist(), q.target) for q in every) == [([1, 2], 1), ([1, 2, 3], 1)]


def test_the_split_leaves_its_share():
    log = code(*columns(*((f"u{i}", 1, i) for i in range(1000))))
    assert abs((log.times >= split_time(log, 0.05)).mean() - 0.05) < 0.005


def test_histories_are_padded_on_the_right():
    """Catches a history that is shifted, and an empty batch that fails."""
    rows, lengths = padded([np.array([4, 5]), np.zeros(0, dtype=np.int64), np.array([7, 8, 9])])
    assert rows.tolist() == [[4, 5, 0], [0, 0, 0], [7, 8, 9]]
    assert lengths.tolist() == [2, 0, 3]
    assert padded([])[0].shape == (0, 0)
