"""The numbers of the demo's live view."""

import pytest

from local.demo.watch import Histogram

INF = float("inf")


def test_quantiles_are_linear_within_a_bucket() -> None:
    """Catches a p50 that is always a bucket's edge."""
    histogram = Histogram({1.0: 10.0, 2.0: 30.0, INF: 40.0})
    assert histogram.quantile(0.5) == pytest.approx(1.5)
    assert histogram.quantile(0.25) == pytest.approx(1.0)


def test_beyond_the_last_bound_the_last_bound_is_said() -> None:
    """Catches an infinite p99."""
    assert Histogram({1.0: 1.0, INF: 100.0}).quantile(0.99) == 1.0


def test_nothing_observed_has_no_quantile() -> None:
    """Catches a division by zero in the first second, and a zero shown as a fact."""
    assert Histogram().quantile(0.5) is None
    assert Histogram({1.0: 0.0, INF: 0.0}).quantile(0.5) is None


def test_only_what_came_since_counts() -> None:
    """Catches the loading of old histories in the freshness of new events."""
    before = Histogram({1.0: 0.0, 60.0: 0.0, INF: 500.0})
    now = Histogram({1.0: 10.0, 60.0: 10.0, INF: 510.0})
    assert now.since(before).quantile(0.99) <= 1.0
