from __future__ import annotations

import threading

import numpy as np
import pytest

from models.reasoner.catalogue import Catalogue


def filled(value: float, count: int = 1) -> np.ndarray:
    return np.full((count, 4), value, dtype=np.float32)


def test_unknown_items_are_absent_and_zero():
    vectors, present = Catalogue(["a"], filled(2)).get(["x", "a"])
    assert present.tolist() == [False, True]
    assert vectors.tolist() == [[0] * 4, [2] * 4]


def test_rows_survive_growth():
    catalogue = Catalogue(["a"], filled(1))
    catalogue.upsert([f"n{i}" for i in range(5000)], filled(7, 5000))
    assert catalogue.index["a"] == 0
    assert len(catalogue) == 5001
    assert catalogue.get(["a", "n4999"])[0][:, 0].tolist() == [1, 7]


def test_an_upsert_replaces_and_the_last_of_two_wins():
    catalogue = Catalogue(["a"], filled(1))
    catalogue.upsert(["a", "b", "a"], np.concatenate([filled(2), filled(3), filled(4)]))
    assert catalogue.get(["a", "b"])[0][:, 0].tolist() == [4, 3]
    assert len(catalogue) == 2


def test_a_removed_item_is_gone_until_it_comes_back():
    catalogue = Catalogue(["a", "b"], filled(1, 2))
    catalogue.remove(["a", "never heard of"])
    assert catalogue.rows(["a", "b"]).tolist() == [-1, 1]
    catalogue.upsert(["a"], filled(5))
    assert catalogue.rows(["a"]).tolist() == [0]


def test_changes_tell_each_write_once():
    catalogue = Catalogue(["a", "b"], filled(1, 2))
    first = catalogue.changes()
    assert first.rows.tolist() == [0, 1]
    catalogue.upsert(["b", "c"], filled(2, 2))
    catalogue.remove(["a"])
    second = catalogue.changes(first.revision)
    assert second.rows.tolist() == [0, 1, 2]
    assert second.alive.tolist() == [False, True, True]
    assert not len(catalogue.changes(second.revision).rows)


def test_an_empty_catalogue_answers():
    catalogue = Catalogue.empty(4)
    vectors, present = catalogue.get(["a"])
    assert vectors.shape == (1, 4)
    assert not present.any()
    assert catalogue.get([])[0].shape == (0, 4)


def test_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="vectors"):
        Catalogue(["a", "b"], filled(1))
    with pytest.raises(ValueError, match="shape"):
        Catalogue(["a"], filled(1)).upsert(["b"], np.zeros((1, 5), dtype=np.float32))


def test_a_reader_never_sees_half_a_vector():
    catalogue = Catalogue(["a"], filled(0))
    stop = threading.Event()

    def write() -> None:
        value = 0
        while not stop.is_set():
            value += 1
            catalogue.upsert(["a", f"n{value}"], filled(value, 2))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2000):
            vectors, present = catalogue.get(["a"])
            assert present.all()
            assert len(set(vectors[0].tolist())) == 1
    finally:
        stop.set()
        writer.join()
