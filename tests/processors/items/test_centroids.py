"""Vectors far from their category."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from freshet.records import Item, ItemFeatures, ItemKnowledge
from processors.items.centroids import FAR_FROM_CATEGORY, CategoryCentroids, flagged

DIMS = 64
TEA = ("Drinks", "Tea", "Green tea")


def cloud(centre: int, count: int, seed: int = 0, spread: float = 0.08) -> np.ndarray:
    """Vectors (count, DIMS) around one axis."""
    vectors = np.random.default_rng(seed).standard_normal((count, DIMS)) * spread
    vectors[:, centre] += 1
    return vectors.astype(np.float32)


def test_a_vector_of_another_kind_is_far_and_one_of_its_own_is_not() -> None:
    """Catches a threshold that flags everything, or nothing."""
    centroids = CategoryCentroids()
    flags = [centroids.check(TEA, vector) for vector in cloud(0, 500)]
    assert sum(flags) <= 5
    assert centroids.check(TEA, cloud(1, 1)[0])
    assert not centroids.check(TEA, cloud(0, 1, seed=7)[0])


def test_nothing_is_far_before_enough_items() -> None:
    """Catches flags out of a centroid of three items."""
    centroids = CategoryCentroids(least_items=30)
    assert not any(centroids.check(TEA, vector) for vector in np.vstack([cloud(0, 15), cloud(1, 15)]))


def test_outliers_do_not_make_outliers_welcome() -> None:
    """Catches a spread that an attacker widens with a few strange items."""
    centroids = CategoryCentroids()
    for number, vector in enumerate(cloud(0, 300)):
        centroids.check(TEA, cloud(number % 9 + 2, 1)[0] if number % 10 == 0 else vector)
    assert centroids.check(TEA, cloud(1, 1)[0])


def test_a_category_is_its_first_levels_and_no_case() -> None:
    """Catches a centroid for each leaf and spelling, none of which ever has enough items."""
    centroids = CategoryCentroids(least_items=30)
    for vector in cloud(0, 20):
        centroids.check(("DRINKS", " tea ", "black"), vector)
        centroids.check(("drinks", "Tea", "white"), vector)
    assert len(centroids) == 1
    assert centroids.check(TEA, cloud(1, 1)[0])
    assert not centroids.check(("Tools",), cloud(1, 1)[0])


def test_without_a_category_nothing_is_far() -> None:
    """Catches one cloud of everything that has no category."""
    centroids = CategoryCentroids(least_items=2)
    for axis in range(9):
        assert not centroids.check((), cloud(axis, 1)[0])
        assert not centroids.check(("", " "), cloud(axis, 1)[0])
    assert len(centroids) == 0


@pytest.mark.parametrize("broken", [np.zeros(DIMS), np.full(DIMS, np.nan), np.full(DIMS, np.inf)])
def test_a_vector_without_direction_is_far_and_does_not_count(broken: np.ndarray) -> None:
    """Catches a NaN that poisons the centroid for good."""
    centroids = CategoryCentroids(least_items=10)
    for vector in cloud(0, 40):
        centroids.check(TEA, vector)
    assert centroids.check(TEA, broken)
    assert not centroids.check(TEA, cloud(0, 1, seed=3)[0])


def test_another_width_is_said() -> None:
    """Catches vectors of two versions in one centroid."""
    centroids = CategoryCentroids()
    centroids.check(TEA, np.ones(8))
    with pytest.raises(ValueError, match="9 dimensions"):
        centroids.check(TEA, np.ones(9))


def test_alike_items_do_not_make_the_limit_zero() -> None:
    """Catches a flag on rounding, where a category holds copies of one item."""
    centroids = CategoryCentroids()
    for _ in range(100):
        centroids.check(TEA, np.eye(DIMS)[0])
    assert not centroids.check(TEA, cloud(0, 1, spread=0.01)[0])


def test_memory_is_bounded_and_the_oldest_goes() -> None:
    """Catches a leak fed by items that each name a category of their own."""
    centroids = CategoryCentroids(most_categories=10, least_items=5)
    for number in range(100):
        for vector in cloud(0, 6):
            centroids.check(TEA, vector)
        centroids.check((f"c{number}",), cloud(0, 1)[0])
    assert len(centroids) == 10
    assert centroids.check(TEA, cloud(1, 1)[0])


def test_threads_lose_no_item() -> None:
    """Catches an update without a lock."""
    centroids = CategoryCentroids(least_items=10_000)
    vectors = cloud(0, 500)

    def work() -> None:
        for vector in vectors:
            centroids.check(TEA, vector)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [place] = centroids._clusters.values()
    assert place.count == 2_000
    assert np.allclose(place.mean, np.mean([v / np.linalg.norm(v) for v in vectors], axis=0), atol=1e-6)


def test_knowledge_gets_its_flag_before_it_is_published() -> None:
    """Catches a flag on the wrong item, or one said twice."""
    centroids = CategoryCentroids()
    for vector in cloud(0, 60):
        centroids.check(TEA, vector)
    item, knowledge = Item("i", 1, "tea", category=TEA), ItemKnowledge("i", 1, 2, "f", flags=("other",))

    def features(axis: int) -> ItemFeatures:
        return ItemFeatures("i", "v1", 2, 1, 2, DIMS, cloud(axis, 1, seed=5)[0].astype("<f2").tobytes())

    assert flagged(centroids, item, knowledge, features(0)) is knowledge
    far = flagged(centroids, item, knowledge, features(1))
    assert far.flags == ("other", FAR_FROM_CATEGORY)
    assert flagged(centroids, item, far, features(1)).flags == far.flags
