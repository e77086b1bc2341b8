"""The columns that a ranker makes of one read: each candidate against its user, as one float32 matrix.

Owns the meaning of each column (the docs print COLUMNS) and its value where something is missing. Must not read from
Redis: `ranking_reader.py` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from freshet.results import FeatureRead

MAX_AGE_S = 365 * 86_400.0
"""The age of everything older, and of everything absent: a ranker's input must be finite."""
MAX_TIERS = 100


class Column(NamedTuple):
    """One column; a name that ends in `_NN` is one column per tier of similarity."""

    group: str
    name: str
    meaning: str
    absent: str

    def names(self, tiers: int) -> list[str]:
        """The names of its columns in a matrix with this many tiers of similarity."""
        stem = self.name.removesuffix("NN")
        return [self.name] if stem == self.name else [f"{stem}{tier:02}" for tier in range(tiers)]


COLUMNS = (
    Column("user_vectors", "log_dot", "dot product of candidate and log vector", "0"),
    Column("user_vectors", "log_cosine", "their cosine", "0"),
    Column("user_vectors", "inferred_dot", "dot product of candidate and inferred vector", "0"),
    Column("user_vectors", "inferred_cosine", "their cosine", "0"),
    Column("history", "history_sim_NN", "SimTier: history items with a cosine to the candidate in tier NN", "0"),
    Column("history", "history_nearest", "cosine of the history item nearest to the candidate", "-1"),
    Column("behaviors", "behavior_sim_NN", "SimTier of the inferred behaviors: sum of their confidences", "0"),
    Column("behaviors", "behavior_nearest", "cosine of the inferred behavior nearest to the candidate", "-1"),
    Column("behaviors", "behavior_nearest_confidence", "confidence of that behavior", "0"),
    Column("item", "item_present", "1 where the candidate has features, else 0", "0"),
    Column("item", "item_age_log1p", "ln(1 + age in seconds), of a year at most", "that of a year"),
    Column("item", "item_tier", "1 text, 2 knowledge", "0"),
    Column("user", "user_present", "1 where the user has features, else 0", "0"),
    Column("user", "user_age_log1p", "ln(1 + age in seconds), of a year at most", "that of a year"),
    Column("user", "user_tier", "1 fallback, 2 diffusion", "0"),
    Column("user", "user_degraded", "1 where a deadline cut the inference short, else 0", "0"),
    Column("user", "user_history_log1p", "ln(1 + events in the history that was used)", "0"),
)
"""Every column, in the order of the matrix."""
GROUPS = tuple(dict.fromkeys(column.group for column in COLUMNS))


@dataclass(frozen=True, slots=True)
class RankingOptions:
    """Which groups of columns to make; cosines fall into `tiers` equal intervals from `low` to `high`.

    A cosine outside of them counts in the outermost tier. The order of `groups` makes no difference. Train and serve a
    ranker with the same options; `names` lists the columns. Raises ValueError for unknown groups or impossible bounds.
    """

    groups: tuple[str, ...] = GROUPS
    tiers: int = 10
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.groups) - set(GROUPS)):
            raise ValueError(f"groups are {', '.join(unknown)}, wanted some of {', '.join(GROUPS)}")
        if not 1 <= self.tiers <= MAX_TIERS:
            raise ValueError(f"tiers is {self.tiers}, wanted 1 to {MAX_TIERS}")
        if not -1 <= self.low < self.high <= 1:
            raise ValueError(f"tiers reach from {self.low:g} to {self.high:g}, wanted a range within -1 and 1")

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each column."""
        return _names(frozenset(self.groups), self.tiers)


@cache
def _names(groups: frozenset[str], tiers: int) -> tuple[str, ...]:
    return tuple(name for column in COLUMNS if column.group in groups for name in column.names(tiers))


@dataclass(frozen=True, slots=True, eq=False)
class CandidateFeatures:
    """One row per candidate, one column per name; every value is finite."""

    matrix: NDArray[np.float32]  # (N, F)
    names: tuple[str, ...]  # F

    def __repr__(self) -> str:
        rows, columns = self.matrix.shape
        return f"CandidateFeatures({rows} candidates, {columns} columns)"

    def column(self, name: str) -> NDArray[np.float32]:
        """The values of one column (N,); raises ValueError for an unknown name."""
        values: NDArray[np.float32] = self.matrix[:, self.names.index(name)]
        return values


def candidate_features(
    found: FeatureRead,
    history: NDArray[np.float32] | None = None,
    behaviors: NDArray[np.float32] | None = None,
    options: RankingOptions | None = None,
) -> CandidateFeatures:
    """The columns of `options` for the N candidates of `found`.

    `history` (H, dims) are the vectors of items from the user's events, `behaviors` (B, dims) those of the items in
    `found.user.behaviors`, in their order. None means that there are none. A row of zeros is an absent item and counts
    in no column. Raises ValueError where a shape does not fit.

    500 candidates of 128 dims against 50 history items and 16 behaviors take about 0.5 ms on one core.
    """
    options = options or RankingOptions()
    groups, user, count = set(options.groups), found.user, len(found.present)
    items, lengths = _rows(found)
    known = lengths > 0
    blocks: list[NDArray[np.float32]] = []
    if "user_vectors" in groups:
        vectors = np.stack((user.log_vector, user.inferred_vector))
        dots = items @ vectors.T  # (N, 2)
        cosines = dots * _inverse(lengths)[:, None] * _inverse(_lengths(vectors))
        blocks.append(np.stack((dots, cosines.clip(-1, 1)), axis=2).reshape(count, 4))
    if "history" in groups:
        units, _ = _units(history, items.shape[1], "history")
        cosines = _cosines(items, lengths, units)
        blocks += [sim_tiers(cosines, options, known=known), _nearest(cosines, known)]
    if "behaviors" in groups:
        confidences = np.array([behavior.confidence for behavior in user.behaviors], np.float32)
        units, kept = _units(behaviors, items.shape[1], "behaviors", None if behaviors is None else len(confidences))
        weights = confidences[kept]
        cosines = _cosines(items, lengths, units)
        blocks += [sim_tiers(cosines, options, weights, known=known), _nearest(cosines, known)]
        blocks.append(_weight_of_nearest(cosines, weights, known))
    if "item" in groups:
        blocks.append(np.stack((found.present, _log_age(found.age_seconds), found.tier), axis=1, dtype=np.float32))
    if "user" in groups:
        row = [user.present, _log_age(user.age_seconds), user.tier, user.degraded, np.log1p(user.history_length)]
        blocks.append(np.broadcast_to(np.array(row, np.float32), (count, len(row))))
    matrix = np.concatenate(blocks, axis=1) if blocks else np.zeros((count, 0), np.float32)
    return CandidateFeatures(matrix, options.names)


def sim_tiers(
    cosines: NDArray[np.float32],
    options: RankingOptions,
    weights: NDArray[np.float32] | None = None,
    *,
    known: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """SimTier: the number of `cosines` (N, H) of a row in each tier (N, tiers), or the sum of their `weights` (H,).

    A tier includes its lower bound. Rows that are not `known` are all 0. After "Enhancing Taobao Display Advertising
    with Multimodal Representations" (arXiv:2407.19467, CIKM 2024), which counts without weights.
    """
    count, tiers = len(cosines), options.tiers
    cells = ((cosines - np.float32(options.low)) * np.float32(tiers / (options.high - options.low))).astype(np.intp)
    np.clip(cells, 0, tiers - 1, out=cells)
    cells += np.arange(0, count * tiers, tiers)[:, None]  # one bincount over all rows: each has cells of its own
    each = None if weights is None else np.broadcast_to(weights, cosines.shape).ravel()
    counts = np.bincount(cells.ravel(), each, count * tiers).reshape(count, tiers).astype(np.float32)
    return counts if known is None else counts * known[:, None]


def _rows(found: FeatureRead) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The candidates' vectors (N, dims) and their lengths (N,), both 0 for an absent candidate."""
    items = found.item_matrix
    if not found.present.all():  # absent rows hold the reader's default, which may be anything
        items = np.where(found.present[:, None], items, np.float32(0))
    return items, _lengths(items)


def _units(
    vectors: NDArray[np.float32] | None, dims: int, what: str, wanted: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Those of `vectors` that are not zero, scaled to length 1, and their indices."""
    if vectors is None:
        return np.zeros((0, dims), np.float32), np.zeros(0, np.intp)
    rows = len(vectors) if wanted is None else wanted
    if vectors.shape != (rows, dims):
        raise ValueError(f"{what} has shape {vectors.shape}, wanted {(rows, dims)}")
    lengths = _lengths(vectors)
    kept = np.flatnonzero(lengths)
    return vectors[kept] / lengths[kept, None], kept


def _lengths(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return lengths


def _inverse(lengths: NDArray[np.float32]) -> NDArray[np.float32]:
    inverse: NDArray[np.float32] = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return inverse


def _cosines(
    items: NDArray[np.float32], lengths: NDArray[np.float32], units: NDArray[np.float32]
) -> NDArray[np.float32]:
    cosines: NDArray[np.float32] = items @ units.T  # (N, H)
    cosines *= _inverse(lengths)[:, None]
    return np.clip(cosines, -1, 1, out=cosines)


def _nearest(cosines: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The largest cosine of each row (N, 1); -1, the least possible, where there is none."""
    return np.where(known, cosines.max(axis=1, initial=-1.0), np.float32(-1))[:, None]


def _weight_of_nearest(
    cosines: NDArray[np.float32], weights: NDArray[np.float32], known: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """The weight of the column with the largest cosine (N, 1); 0 where there is none."""
    if not len(weights):
        return np.zeros((len(cosines), 1), np.float32)
    nearest: NDArray[np.float32] = weights[cosines.argmax(axis=1)] * known
    return nearest[:, None]


def _log_age(age_seconds: Any) -> Any:
    return np.log1p(np.minimum(age_seconds, MAX_AGE_S))
