from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.candidate_indexes import Cells, SemanticIds
from benchmarks.catalogue_scale import enlarged


def vectors(items: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(items, 9, generator=torch.Generator().manual_seed(seed))


def everywhere(kind: str, items: torch.Tensor) -> Cells | SemanticIds:
    """An index that is told to look at everything."""
    if kind == "cells":
        index = Cells(items)
        index.probes = index.cells
        return index
    return SemanticIds(items, beam=len(items) + 65_536)


def best(items: torch.Tensor, states: torch.Tensor, count: int) -> list[set[int]]:
    scores = states @ items[:, :-1].T + items[:, -1]
    return [set(row.tolist()) for row in scores.topk(count).indices]


@pytest.mark.parametrize("kind", ["cells", "semantic ids"])
def test_a_rival_that_looks_everywhere_finds_the_best(kind):
    """Catches a comparison that a rival loses to a fault of ours: rows mixed up, leaves lost on the way down."""
    items, states = vectors(2_000), vectors(5, seed=1)[:, :-1]
    index = everywhere(kind, items.clone())
    assert [set(row.tolist()) for row in index.find(states, 30)] == best(items, states, 30)
    changed = torch.arange(0, 2_000, 7)
    items[changed] = vectors(len(changed), seed=2)
    index.change(changed, items[changed].clone())
    assert [set(row.tolist()) for row in index.find(states, 30)] == best(items, states, 30)


def test_equal_items_get_codes_of_their_own():
    """Catches collisions left in the tokens while last codes are free."""
    items = vectors(40).repeat_interleave(20, 0)
    index = SemanticIds(items)
    assert index.collisions == 760
    assert len(index._tokens.unique(dim=0)) == 800


def test_an_enlarged_catalogue_begins_with_the_real_items():
    """Catches trained rows that lose their vectors, and made ones that are copies or of another length."""
    real = vectors(100).numpy()
    made = enlarged(real, 1_000)
    np.testing.assert_array_equal(made[:100], real)
    assert len(np.unique(made, axis=0)) == 1_000
    assert np.linalg.norm(made, axis=1).max() <= np.linalg.norm(real, axis=1).max() + 1e-3
