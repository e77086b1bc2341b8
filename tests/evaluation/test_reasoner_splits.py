"""What is learned from and what is asked never meet."""

from __future__ import annotations

import numpy as np

from evaluation.reasoner import splits
from evaluation.reasoner.splits import Case
from models.reasoner.sequences import TrainingLog


def log(*users: list[tuple[int, int]]) -> TrainingLog:
    """Each user's (item, time) pairs."""
    flat = [(user, item, time) for user, events in enumerate(users) for item, time in events]
    columns = np.array(sorted(flat, key=lambda event: (event[0], event[2])), dtype=np.int64).T
    return TrainingLog(columns[0], columns[1], columns[2], len(users))


def random_log(users: int = 60, items: int = 40, seed: int = 0) -> TrainingLog:
    rng = np.random.default_rng(seed)
    return log(
        *(
            [(int(rng.integers(items)), int(rng.integers(0, 30))) for _ in range(int(rng.integers(3, 45)))]
            for _ in range(users)
        )
    )


def pairs(of: TrainingLog) -> set[tuple[int, int]]:
    return set(zip(of.users.tolist(), of.items.tolist(), strict=True))


def asked(cases: list[Case] | tuple[Case, ...]) -> set[tuple[int, int]]:
    return {(case.user, int(item)) for case in cases for item in case.truth}


def test_the_last_two_new_items_are_never_learned_from() -> None:
    """Catches a target in the training log, a target the user had before, and repeats after the target."""
    made = splits.leave_last(random_log(), np.random.default_rng(1))
    assert len(made.test) == len(made.validation) > 40
    assert not pairs(made.train) & (asked(list(made.test)) | asked(list(made.validation)))
    for validation, test in zip(made.validation, made.test, strict=True):
        assert validation.truth[0] in test.history
        assert not np.isin(test.truth, test.history).any()
        assert (np.diff(test.times) >= 0).all()


def test_what_is_last_is_the_last_new_item_and_short_histories_are_only_learned_from() -> None:
    """Catches a repeat taken for the last new item."""
    world = log([(n, n) for n in (0, 1, 2, 3, 4)] + [(0, 9), (4, 10)], [(5, 0), (6, 1)])
    made = splits.leave_last(world, np.random.default_rng(0))
    [test], [validation] = made.test, made.validation
    assert (test.history.tolist(), test.truth.tolist()) == ([0, 1, 2, 3], [4])
    assert (validation.history.tolist(), validation.truth.tolist()) == ([0, 1, 2], [3])
    assert made.train.items.tolist() == [0, 1, 2, 5, 6]


def test_a_seed_decides_the_order_of_a_basket() -> None:
    """Catches ties in the order of the file: the last line of a basket would be the target under every seed."""
    world = log([(n, 0 if n < 3 else 1) for n in range(9)])
    targets = {int(splits.leave_last(world, np.random.default_rng(seed)).test[0].truth[0]) for seed in range(20)}
    assert targets <= set(range(3, 9))
    assert len(targets) > 2


def test_the_last_sixteen_are_left_out_together() -> None:
    """Catches one of the 16 in the training log, and users with too little left to go on."""
    made = splits.leave_last_many(random_log(), np.random.default_rng(2), count=4)
    assert all(len(case.truth) == 4 and len(np.unique(case.history)) >= 4 for case in made.test)
    assert not pairs(made.train) & asked(list(made.test))


def test_a_time_split_learns_nothing_after_it() -> None:
    """Catches an event after the moment in the training log or in a history, and truth the user already had."""
    world = random_log()
    made = splits.time_split(world, np.random.default_rng(3), share=0.3)
    timestamp = made.train.times.max() + 1
    assert len(made.train.items) == (world.times < timestamp).sum()
    assert made.test
    for case in made.test:
        assert len(case.history)
        assert (case.times < timestamp).all()
        assert not np.isin(case.truth, case.history).any()
        later = world.items[(world.users == case.user) & (world.times >= timestamp)]
        assert np.isin(case.truth, later).all()


def categories(items: int = 40) -> np.ndarray:
    return np.arange(items)[:, None] % 4 == np.arange(4)


def test_cold_items_are_never_trained() -> None:
    """Catches an event of a cold item in training, and a user learned from after the cold item that is asked."""
    world = random_log()
    made = splits.held_out(world, categories(), np.random.default_rng(4))
    assert len(made.cold_items) == 4
    assert not np.isin(made.train.items, made.cold_items).any()
    assert made.cold
    for case in made.cold:
        assert case.truth[0] in made.cold_items
        mine = made.train.times[made.train.users == case.user]
        assert not len(mine) or mine.max() <= world.times[(world.users == case.user)].max()
        assert len(mine) <= len(case.history)


def test_items_first_seen_late_are_cold_first() -> None:
    """Catches random cold items where the log has really new ones."""
    users = [[(item, 0) for item in range(20)] for _ in range(6)]
    late = [[(item, 50 + item) for item in (20, 21)] + [(0, 90)] for _ in range(6)]
    counts = splits.cold_rows(log(*users, *late), 22, np.random.default_rng(0), share=0.1, least=5)
    assert counts.tolist() == [20, 21]


def test_a_hidden_category_is_nowhere_to_be_seen() -> None:
    """Catches hidden items left in the user's history or in training, and users never asked under any seed."""
    world, table = random_log(), categories()
    users = set()
    for part in range(3):
        made = splits.held_out(world, table, np.random.default_rng(part), part=(part, 3))
        for case, category in zip(made.hidden, made.hidden_category, strict=True):
            assert not table[case.history, category].any()
            assert table[case.truth, category].all()
            assert len(case.truth) >= 3
            mine = made.train.items[made.train.users == case.user]
            assert not table[mine, category].any()
            users.add(case.user)
        assert len(made.hidden) == len({case.user for case in made.hidden})
    assert len(users) > 30
