"""Every metric of the worker, once, with its unit in its name.

Owns names, help texts and labels; `docs.generators.metrics_page` is their table. Labels are bounded (lane, topic,
reason), never ids. Starts no server: `streams.health` does.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)


class Metrics:
    """The metrics of one worker in one registry of their own, so that tests and embedded workers do not share."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry(auto_describe=True)
        r = self.registry
        self.records = Counter(
            "freshet_records",
            "Records a lane has finished, by outcome: done, deleted, dead_letter, older.",
            ["lane", "outcome"],
            registry=r,
        )
        self.dead_letters = Counter(
            "freshet_dead_letters", "Records sent to a dead-letter topic.", ["topic", "reason"], registry=r
        )
        self.retries = Counter(
            "freshet_retries", "Attempts repeated after a transient error, by its class.", ["lane", "cause"], registry=r
        )
        self.in_flight = Gauge("freshet_in_flight_records", "Records read and not yet finished.", ["lane"], registry=r)
        self.backing_off = Gauge(
            "freshet_backing_off", "1 while a lane waits for a dependency to come back.", ["lane"], registry=r
        )
        self.position = Gauge(
            "freshet_committed_offset",
            "Offset last handed to Kafka for commit.",
            ["lane", "topic", "partition"],
            registry=r,
        )
        self.lag_records = Gauge(
            "freshet_lag_records", "Records not acknowledged yet.", ["lane", "topic", "partition"], registry=r
        )
        self.lag_seconds = Gauge(
            "freshet_lag_seconds",
            "How long the oldest record that is not acknowledged has been there.",
            ["lane", "topic", "partition"],
            registry=r,
        )
        self.stalled = Gauge(
            "freshet_stalled", "1 while a lane is behind, moves no position and waits for nobody.", ["lane"], registry=r
        )
        self.freshness = Histogram(
            "freshet_publish_freshness_seconds",
            "From the event time of a record to the confirmed publication of its result.",
            ["lane"],
            buckets=_SECONDS,
            registry=r,
        )
        self.feature_freshness = Histogram(
            "freshet_feature_freshness_seconds",
            "From the event time of a feature to the confirmed write that lets rankers read it.",
            ["kind", "tier", "version"],
            buckets=_SECONDS,
            registry=r,
        )
        self.batch_records = Histogram(
            "freshet_batch_records", "Records processed together.", ["lane"], buckets=_RECORDS, registry=r
        )
        self.batch_seconds = Histogram(
            "freshet_batch_seconds", "Time to process one batch.", ["lane"], buckets=_SECONDS, registry=r
        )
        self.llm_tokens = Counter("freshet_llm_tokens", "LLM tokens, by direction: in, out.", ["direction"], registry=r)
        self.llm_calls = Counter("freshet_llm_calls", "LLM calls behind published knowledge.", registry=r)
        self.knowledge = Counter(
            "freshet_knowledge", "Knowledge published, by origin: fresh, cache, shared.", ["origin"], registry=r
        )
        self.llm_limit = Gauge("freshet_llm_limit_calls", "LLM calls the endpoint is trusted with now.", registry=r)
        self.llm_budget_spent = Gauge(
            "freshet_llm_budget_spent_tokens", "LLM tokens all workers have spent in the hour that runs.", registry=r
        )
        self.llm_deferrals = Counter(
            "freshet_llm_deferrals", "LLM calls put off because the hour's token budget is spent.", registry=r
        )
        self.sink_writes = Counter(
            "freshet_sink_writes",
            "Redis writes by kind and answer: written, older, same.",
            ["kind", "result"],
            registry=r,
        )
        self.users_refreshed = Counter(
            "freshet_users_refreshed", "User features published, by tier: fallback, diffusion.", ["tier"], registry=r
        )
        self.refresh_queue_users = Gauge(
            "freshet_refresh_queue_users", "Users in the refresh queue, to be refreshed now.", registry=r
        )
        self.refresh_waiting_users = Gauge(
            "freshet_refresh_waiting_users",
            "Users with new events whose time to be refreshed has not come.",
            registry=r,
        )
        self.refresh_queue_age = Gauge(
            "freshet_refresh_queue_age_seconds",
            "Age of the first entry of the refresh queue; activity counts as waiting.",
            registry=r,
        )
        self.catalogue_items = Gauge(
            "freshet_catalogue_items", "Item vectors the user reasoner chooses from.", registry=r
        )
