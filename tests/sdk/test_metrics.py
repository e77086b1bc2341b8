"""What Prometheus learns of reads: how fresh, how fast, how complete."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from freshet import FeatureReader, ReadMetrics
from store.feature_writer import FeatureWriter
from store.versions import Versions
from tests.support.fakes import NOW_MS, FakeClock
from tests.support.samples import item, user
from tests.support.worlds import Blocking


def scraped(metrics: ReadMetrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    registry = CollectorRegistry()
    registry.register(metrics)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


@pytest.mark.parametrize("make", [FeatureReader, Blocking], ids=["threads", "asyncio"])
def test_freshness_and_rows_are_counted_as_they_were_read(valkey: str, make: Any) -> None:
    """Catches absent rows counted as infinitely old, ages in the wrong bucket, and a series without its version."""
    with redis.Redis.from_url(valkey) as client:
        Versions(client).activate("v1")
        writer = FeatureWriter(client)
        ages = (0, 1_000, 1_001, 70_000)
        writer.put_items([item(f"i{n}", event_time=NOW_MS - age) for n, age in enumerate(ages)])
        writer.put_users([user("u", event_time=NOW_MS - 4_000)])
    metrics = ReadMetrics()
    reader = make(valkey, timeout_s=10.0, clock=FakeClock(NOW_MS), observer=metrics)
    reader.read("u", ["i0", "i1", "i2", "i3", "none"])
    reader.items(["i3"])
    reader.close()
    found = scraped(metrics)

    def series(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    freshness = "freshet_feature_freshness_seconds"
    assert series(f"{freshness}_bucket", kind="item", version="v1", le="1.0") == 2
    assert series(f"{freshness}_bucket", kind="item", version="v1", le="5.0") == 3
    assert series(f"{freshness}_count", kind="item", version="v1") == 5
    assert series(f"{freshness}_sum", kind="item", version="v1") == pytest.approx(142.001)
    assert series(f"{freshness}_bucket", kind="user", version="v1", le="5.0") == 1
    assert series("freshet_read_rows_total", kind="item", state="present") == 5
    assert series("freshet_read_rows_total", kind="item", state="absent") == 1
    assert series("freshet_reads_total", outcome="complete") == 2
    assert series("freshet_read_seconds_count") == 2


def test_an_outage_is_counted_as_such() -> None:
    """Catches an outage that looks like a catalogue without items."""
    metrics = ReadMetrics()
    with FeatureReader("redis://127.0.0.1:1/0", timeout_s=1.0, version="v1", observer=metrics) as reader:
        reader.read("u", ["a", "b"])
    found = scraped(metrics)
    assert found["freshet_read_rows_total", frozenset({("kind", "item"), ("state", "unanswered")})] == 2
    assert found["freshet_read_rows_total", frozenset({("kind", "user"), ("state", "unanswered")})] == 1
    assert found["freshet_reads_total", frozenset({("outcome", "partial")})] == 1
    assert not any(name.startswith("freshet_feature_freshness") for name, _ in found)
