"""A ranker's columns against plain loops; run as a script, this writes their table into `docs/use/rankers/rank.md`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from freshet.ranking import COLUMNS, GROUPS, MAX_AGE_S, RankingOptions, candidate_features, sim_tiers
from freshet.records import InferredBehavior
from freshet.results import FeatureRead, UserRead

PAGE = Path(__file__).parents[2] / "docs" / "use" / "rankers" / "rank.md"
OLDEST = math.log1p(MAX_AGE_S)
NEAR = 1e-5  # float32 against float64: cosines so near to each other or to a bound may fall on either side


def table() -> str:
    """The columns as a table for the page."""
    rows = [f"| `{one.name}` | `{one.group}` | {one.meaning} | {one.absent} |" for one in COLUMNS]
    return "\n".join(["| column | group | meaning | where absent |", "|---|---|---|---|", *rows]) + "\n"


def read(
    vectors: Any,
    user: Any = None,
    *,
    present: Any = True,
    confidences: Any = (),
    age: Any = 5.0,
    **change: Any,
) -> FeatureRead:
    """An answer with these item vectors, and this log and inferred vector."""
    matrix = np.array(vectors, np.float32)
    here = np.broadcast_to(np.array(present, bool), len(matrix)).copy()
    log, inferred = np.zeros((2, matrix.shape[1]), np.float32) if user is None else np.array(user, np.float32)
    values: dict[str, Any] = {
        "log_vector": log,
        "inferred_vector": inferred,
        "behaviors": tuple(InferredBehavior(f"b{n}", value) for n, value in enumerate(confidences)),
        "present": user is not None,
        "age_seconds": math.inf if user is None else 60.0,
        "tier": 0 if user is None else 2,
        "degraded": False,
        "history_length": 0 if user is None else 12,
        "version": "v1",
    }
    ages = np.where(here, np.float32(age), np.float32(np.inf))
    tier = np.where(here, 2, 0).astype(np.uint8)
    return FeatureRead(matrix, here, ages, tier, "v1", np.ones_like(here), False, (), UserRead(**{**values, **change}))


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float | None:
    """In float64; None where one has no direction."""
    x, y = one.astype(np.float64), other.astype(np.float64)
    lengths = math.sqrt(sum(x * x)) * math.sqrt(sum(y * y))
    return None if lengths == 0 else max(-1.0, min(1.0, float(sum(x * y)) / lengths))


# The values of a float16, hostile ones among them: zeros, the least and the greatest there is.
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.25, 3.0, 65504.0, -65504.0, 6e-8, 0.1])


@st.composite
def requests(draw: st.DrawFn) -> tuple[FeatureRead, NDArray[np.float32], NDArray[np.float32], RankingOptions]:
    dims = draw(st.integers(1, 5))

    def rows(count: int) -> NDArray[np.float32]:
        cells = draw(st.lists(VALUES, min_size=count * dims, max_size=count * dims))
        return np.array(cells, np.float16).astype(np.float32).reshape(count, dims)

    count = draw(st.integers(0, 5))
    confidences = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=4))
    found = read(
        rows(count),
        draw(st.none() | st.builds(rows, st.just(2))),
        present=draw(st.lists(st.booleans(), min_size=count, max_size=count)),
        confidences=confidences,
        age=draw(st.sampled_from([0.0, 7.5, 1e12])),
    )
    found.item_matrix[~found.present] = draw(st.sampled_from([0.0, -1.0, np.nan]))
    low, high = draw(st.sampled_from([(-1.0, 1.0), (0.0, 1.0), (-0.5, 0.25)]))
    options = RankingOptions(tiers=draw(st.integers(1, 7)), low=low, high=high)
    return found, rows(draw(st.integers(0, 6))), rows(len(confidences)), options


def check_neighbors(
    column: Any, prefix: str, row: int, cosines: list[tuple[float, float]], options: RankingOptions
) -> None:
    """`cosines`, each with its weight, against the tiers, the nearest and the weight of the nearest."""
    nearest = max((one for one, _ in cosines), default=-1.0)
    assert column(f"{prefix}_nearest")[row] == pytest.approx(nearest, abs=NEAR)
    if prefix == "behavior":
        could_be = [weight for one, weight in cosines if one >= nearest - NEAR] or [0.0]
        assert min(abs(column("behavior_nearest_confidence")[row] - weight) for weight in could_be) < NEAR
    width, below = (options.high - options.low) / options.tiers, 0.0
    for tier in range(options.tiers - 1):
        below += column(f"{prefix}_sim_{tier:02}")[row]
        bound = options.low + (tier + 1) * width
        least = sum(weight for one, weight in cosines if one < bound - NEAR)
        most = sum(weight for one, weight in cosines if one < bound + NEAR)
        assert least - NEAR <= below <= most + NEAR
    total = below + column(f"{prefix}_sim_{options.tiers - 1:02}")[row]
    assert total == pytest.approx(sum(weight for _, weight in cosines))


@settings(max_examples=300, deadline=None)
@given(requests())
def test_every_column_is_what_a_plain_loop_says(
    request: tuple[FeatureRead, NDArray[np.float32], NDArray[np.float32], RankingOptions],
) -> None:
    """Catches a wrong axis, weight, bound or default, and a value that is not finite, in any mix of absent and zero."""
    found, history, behaviors, options = request
    features = candidate_features(found, history, behaviors, options)
    column, user = features.column, found.user
    assert features.matrix.dtype == np.float32
    assert features.matrix.shape == (len(found.present), len(features.names))
    assert features.names == options.names
    assert np.isfinite(features.matrix).all()
    for row, here in enumerate(found.present.tolist()):
        item = found.item_matrix[row] if here else np.zeros_like(user.log_vector)
        for name, vector in (("log", user.log_vector), ("inferred", user.inferred_vector)):
            exact = sum(item.astype(np.float64) * vector)
            scale = sum(abs(item.astype(np.float64) * vector))
            assert column(f"{name}_dot")[row] == pytest.approx(exact, abs=NEAR * scale)
            assert column(f"{name}_cosine")[row] == pytest.approx(cosine(item, vector) or 0.0, abs=NEAR)
        past = [(one, 1.0) for each in history if (one := cosine(item, each)) is not None]
        check_neighbors(column, "history", row, past, options)
        pairs = zip(behaviors, user.behaviors, strict=True)
        near = [(one, by.confidence) for each, by in pairs if (one := cosine(item, each)) is not None]
        check_neighbors(column, "behavior", row, near, options)
        assert column("item_present")[row] == here
        age = min(float(found.age_seconds[row]), MAX_AGE_S)
        assert column("item_age_log1p")[row] == pytest.approx(math.log1p(age))
        assert column("item_tier")[row] == found.tier[row]
        assert column("user_present")[row] == user.present
        assert column("user_age_log1p")[row] == pytest.approx(math.log1p(min(user.age_seconds, MAX_AGE_S)))
        assert (column("user_tier")[row], column("user_degraded")[row]) == (user.tier, user.degraded)
        assert column("user_history_log1p")[row] == pytest.approx(math.log1p(user.history_length))


def test_a_case_small_enough_to_check_by_hand() -> None:
    """Catches a reference that errs as the code does."""
    found = read([[3, 4], [0, 2]], [[1, 0], [0, -1]], confidences=[0.5, 0.25], degraded=True)
    options = RankingOptions(tiers=4)
    features = candidate_features(found, np.eye(2, dtype="f4"), np.array([[-1, 0], [0, 5]], "f4"), options)
    rows = [dict(zip(features.names, row, strict=True)) for row in features.matrix.round(4).tolist()]
    log_age = [round(math.log1p(seconds), 4) for seconds in (5, 60, 12)]
    rest = dict(zip(features.names[-8:], [1, log_age[0], 2, 1, log_age[1], 2, 1, log_age[2]], strict=True))
    vectors = ["log_dot", "log_cosine", "inferred_dot", "inferred_cosine"]
    past = [f"history_sim_0{n}" for n in range(4)] + ["history_nearest"]
    near = [f"behavior_sim_0{n}" for n in range(4)] + ["behavior_nearest", "behavior_nearest_confidence"]
    first = [3, 0.6, -4, -0.8, *(0, 0, 0, 2), 0.8, *(0.5, 0, 0, 0.25), 0.8, 0.25]
    second = [0, 0, -2, -1, *(0, 0, 1, 1), 1, *(0, 0, 0.5, 0.25), 1, 0.25]
    assert rows[0] == pytest.approx(dict(zip(vectors + past + near, first, strict=True)) | rest, abs=1e-4)
    assert rows[1] == pytest.approx(dict(zip(vectors + past + near, second, strict=True)) | rest, abs=1e-4)


def test_nobody_and_nothing_known_is_the_documented_defaults() -> None:
    """Catches NaN from a length of zero, an infinite age, and a reader's default vector taken for features."""
    found = read([[9, 9], [np.nan, 9]], present=False)
    row = [0] * 4 + [0] * 10 + [-1] + [0] * 10 + [-1, 0] + [0, OLDEST, 0] + [0, OLDEST, 0, 0, 0]
    for given_none in (None, np.zeros((0, 2), np.float32)):
        for history in (given_none, np.ones((3, 2), np.float32)):
            features = candidate_features(found, history, given_none)
            assert features.matrix == pytest.approx(np.array([row, row], np.float32))
    assert candidate_features(read(np.zeros((0, 2)))).matrix.shape == (0, len(row))


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_alone_is_its_part_of_all(group: str) -> None:
    """Catches columns that move, or change, with what stands beside them."""
    rng = np.random.default_rng(0)
    found = read(
        rng.normal(size=(20, 8)), rng.normal(size=(2, 8)), present=rng.random(20) < 0.8, confidences=[0.5, 0.9]
    )
    others = rng.normal(size=(9, 8)).astype(np.float32), rng.normal(size=(2, 8)).astype(np.float32)
    whole = candidate_features(found, *others)
    part = candidate_features(found, *others, RankingOptions(groups=(group,)))
    assert part.names == tuple(name for name in whole.names if name in part.names) != ()
    assert (part.matrix == np.stack([whole.column(name) for name in part.names], axis=1)).all()


def test_names_are_stable_and_no_order_changes_them() -> None:
    """Catches a renamed or moved column, which a trained ranker would take for another."""
    names = RankingOptions(tiers=2).names
    assert names == (
        *("log_dot", "log_cosine", "inferred_dot", "inferred_cosine"),
        *("history_sim_00", "history_sim_01", "history_nearest"),
        *("behavior_sim_00", "behavior_sim_01", "behavior_nearest", "behavior_nearest_confidence"),
        *("item_present", "item_age_log1p", "item_tier"),
        *("user_present", "user_age_log1p", "user_tier", "user_degraded", "user_history_log1p"),
    )
    assert RankingOptions(groups=GROUPS[::-1], tiers=2).names == names
    assert RankingOptions(groups=()).names == ()
    assert candidate_features(read([[1, 2]]), options=RankingOptions(groups=())).matrix.shape == (1, 0)


def test_a_tier_holds_its_lower_bound_and_the_outermost_all_beyond() -> None:
    """Catches an index out of range at a cosine of 1, and a count that is lost beyond `low` and `high`."""
    cosines = np.array([[-1, -0.5, 0, 0.49, 0.5, 1]], np.float32)
    assert sim_tiers(cosines, RankingOptions(tiers=4)).tolist() == [[1, 1, 2, 2]]
    assert sim_tiers(cosines, RankingOptions(tiers=2, low=0, high=0.5)).tolist() == [[3, 3]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": ("item", "words")}, "groups are words, wanted"),
        ({"tiers": 0}, "tiers is 0, wanted 1 to 100"),
        ({"tiers": 101}, "wanted 1 to 100"),
        ({"low": 0.5, "high": 0.5}, "reach from 0.5 to 0.5"),
        ({"low": math.nan}, "wanted a range"),
        ({"high": 2.0}, "wanted a range"),
    ],
)
def test_options_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    """Catches a typing error that would leave columns out, or divide by zero on the hot path."""
    with pytest.raises(ValueError, match=message):
        RankingOptions(**change)


def test_vectors_that_do_not_fit_are_refused() -> None:
    """Catches history of another width, and confidences paired with the wrong behaviors."""
    found = read([[1, 2]], confidences=[0.5])
    with pytest.raises(ValueError, match=r"history has shape \(1, 3\), wanted \(1, 2\)"):
        candidate_features(found, np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match=r"behaviors has shape \(2, 2\), wanted \(1, 2\)"):
        candidate_features(found, behaviors=np.ones((2, 2), np.float32))


def test_the_page_has_every_column() -> None:
    """Catches a column added or changed without its documentation."""
    assert table() in PAGE.read_text(encoding="utf-8"), "run: python -m tests.sdk.test_ranking"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    start = text.index("| column |")
    PAGE.write_text(text[:start] + table() + text[text.index("\n\n", start) + 1 :], encoding="utf-8")
