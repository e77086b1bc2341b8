"""Looks at a running deployment once a second, from outside: Redis as a ranker reads it, the broker, the metrics.

Owns the numbers of the live view. Must not count anything itself: what it shows is read back.
"""

from __future__ import annotations

import time
import urllib.request
from dataclasses import dataclass, field

import numpy as np
from confluent_kafka import KafkaException
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from freshet import FeatureReader, ItemTier, UserTier
from local.demo.data import DemoData
from local.demo.feed import DemoFeed
from local.demo.view import Freshness, Snapshot
from streams.kafka.lag import GroupLag
from streams.kafka.producer import kafka_config
from streams.lanes.table import subscriptions
from streams.settings import Settings

FRESHNESS = "freshet_feature_freshness_seconds"
DEAD_LETTERS = "freshet_dead_letters_total"
SHOWN_FRESHNESS = {
    ("item", str(int(ItemTier.TEXT))): "item, text",
    ("item", str(int(ItemTier.KNOWLEDGE))): "item, knowledge",
    ("user", str(int(UserTier.DIFFUSION))): "user, diffusion",
}
Series = tuple[str, str]
"""Kind and tier of a feature."""


@dataclass(slots=True)
class Seen:
    """What Redis held at the last look: tiers of new items (0 absent) and of users, and text-tier vectors on the way.

    `text_vectors` (N, dims) keeps what an item looked like before its knowledge came; rows of `had_text` only.
    """

    item_tiers: NDArray[np.uint8]
    user_tiers: NDArray[np.uint8]
    text_vectors: NDArray[np.float32]
    had_text: NDArray[np.bool_]

    def items(self, tier: ItemTier) -> int:
        """New items at `tier`."""
        return int((self.item_tiers == tier).sum())

    def users(self, tier: UserTier) -> int:
        """Users at `tier`."""
        return int((self.user_tiers == tier).sum())


@dataclass(slots=True)
class Histogram:
    """Cumulative counts by upper bound in seconds."""

    counts: dict[float, float] = field(default_factory=dict)

    def since(self, before: Histogram) -> Histogram:
        """What was added after `before`."""
        return Histogram({bound: count - before.counts.get(bound, 0.0) for bound, count in self.counts.items()})

    def quantile(self, share: float) -> float | None:
        """Linear within a bucket, as Prometheus does it; None where nothing was observed."""
        bounds = sorted(self.counts)
        total = self.counts[bounds[-1]] if bounds else 0.0
        if not total:
            return None
        lower, below = 0.0, 0.0
        for bound in bounds:
            count = self.counts[bound]
            if count >= share * total:
                if bound == float("inf"):
                    return lower
                return lower + (bound - lower) * (share * total - below) / max(count - below, 1e-9)
            lower, below = bound, count
        return lower


class DemoWatch:
    """One look a second at a deployment that plays `data`."""

    def __init__(self, data: DemoData, settings: Settings, metrics_url: str) -> None:
        self._data = data
        self._settings = settings
        self._reader = FeatureReader(
            settings.redis.url, settings.key_prefix, dims=settings.vectors.dims, timeout_s=30.0, raise_errors=True
        )
        self._lanes = {one.group: one.lane for one in subscriptions(settings)}
        self._lag = GroupLag(kafka_config(settings), {one.group: one.topics for one in subscriptions(settings)})
        self._metrics_url = metrics_url
        self._new_ids = [item.item_id for item in data.new]
        self.user_ids: list[str] = sorted(set(data.stream["user_id"].to_pylist()))
        count = len(self._new_ids)
        self.seen = Seen(
            item_tiers=np.zeros(count, np.uint8),
            user_tiers=np.zeros(len(self.user_ids), np.uint8),
            text_vectors=np.zeros((count, settings.vectors.dims), np.float32),
            had_text=np.zeros(count, np.bool_),
        )
        self._before: dict[Series, Histogram] = {}
        self._began = time.monotonic()

    def begin(self) -> None:
        """Measure freshness and time from now on: what was loaded before is not what the demo is about."""
        self._before, _ = self._scrape()
        self._began = time.monotonic()

    def look(self) -> Seen:
        """Read every new item and every user of the stream back from Redis."""
        items = self._reader.items(self._new_ids)
        text = items.tier == ItemTier.TEXT
        self.seen.text_vectors[text] = items.item_matrix[text]
        self.seen.had_text |= text
        self.seen.item_tiers = items.tier
        self.seen.user_tiers = np.array([user.tier for user in self._reader.users(self.user_ids)], np.uint8)
        return self.seen

    def lag(self) -> dict[str, int]:
        """Records each lane is behind; empty while the broker does not answer."""
        try:
            lags = self._lag.read(timeout_s=5.0)
        except KafkaException:
            return {}
        return {self._lanes[group]: lag for group, lag in lags.items()}

    def snapshot(self, phase: str, feed: DemoFeed) -> Snapshot:
        """Everything the live view shows."""
        seen = self.look()
        histograms, dead_letters = self._scrape()
        freshness = {}
        for series, name in SHOWN_FRESHNESS.items():
            added = histograms.get(series, Histogram()).since(self._before.get(series, Histogram()))
            p50, p99 = added.quantile(0.5), added.quantile(0.99)
            if p50 is not None and p99 is not None:
                freshness[name] = Freshness(p50, p99)
        return Snapshot(
            elapsed_s=time.monotonic() - self._began,
            phase=phase,
            events_sent=feed.events,
            events_total=self._data.stream.num_rows,
            items_sent=feed.items,
            items_text=seen.items(ItemTier.TEXT),
            items_knowledge=seen.items(ItemTier.KNOWLEDGE),
            users_diffusion=seen.users(UserTier.DIFFUSION),
            users_fallback=seen.users(UserTier.FALLBACK),
            dead_letters=int(dead_letters),
            freshness=freshness,
            lag=self.lag(),
        )

    def close(self) -> None:
        """Release connections."""
        self._reader.close()
        self._lag.close()

    def _scrape(self) -> tuple[dict[Series, Histogram], float]:
        """Freshness by kind and tier, and dead letters, from the worker's metrics; nothing while it does not answer."""
        try:
            with urllib.request.urlopen(self._metrics_url, timeout=2.0) as answer:
                text = answer.read().decode()
        except OSError:
            return dict(self._before), 0.0
        histograms: dict[Series, Histogram] = {}
        dead_letters = 0.0
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == f"{FRESHNESS}_bucket":
                    series = (sample.labels["kind"], sample.labels["tier"])
                    histograms.setdefault(series, Histogram()).counts[float(sample.labels["le"])] = sample.value
                elif sample.name == DEAD_LETTERS:
                    dead_letters += sample.value
        return histograms, dead_letters
