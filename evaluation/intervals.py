"""Bootstrap intervals over items or users. Owns the resampling; must not know what was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
Floats = NDArray[np.float64]


def interval(values: Floats, groups: Sequence[str] | None = None, *, seed: int = 0) -> tuple[float, float]:
    """The middle 95 % of the mean of `values` (N,) under resampling.

    With `groups` whole groups are drawn: items of one title succeed and fail together and are one witness.
    A paired difference is the interval of the differences.
    """
    _, members = np.unique(np.arange(len(values)) if groups is None else np.asarray(groups), return_inverse=True)
    sums, sizes = np.bincount(members, values), np.bincount(members)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)
