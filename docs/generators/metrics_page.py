"""`docs/reference/metrics.md`: every metric with its type, unit, labels and their values.

Owns the page. Names and help texts are `streams.metrics`'.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streams.errors import Reason
from streams.lanes.table import LANES
from streams.metrics import Metrics

PAGE = Path(__file__).parents[1] / "reference" / "metrics.md"

LABELS: dict[str, str] = {
    "lane": f"{', '.join(LANES)}; of `backing_off` and `retries` also worker, version, replay, rebuild, erasure-sweep",
    "outcome": "done, deleted, dead_letter, older",
    "topic": "the topics of `freshet topics list`",
    "partition": "one per partition of the topic",
    "reason": ", ".join(Reason),
    "cause": "classes of transient errors (`streams/errors.py`)",
    "kind": "item, user, knowledge",
    "result": "written, older, same",
    "direction": "in, out",
    "origin": "fresh, cache, shared",
    "tier": "item: 1 text, 2 knowledge; user: 1 fallback, 2 diffusion (of `users_refreshed`: fallback, diffusion)",
    "version": "feature versions that are written",
    "state": "present, absent, unanswered",
}
"""The values of each label: none is an id, so that none grows with the catalogue."""

READER: tuple[tuple[str, str, str, str], ...] = (
    ("freshet_feature_freshness_seconds", "histogram", "kind, version", "Age of a feature when a ranker read it."),
    ("freshet_read_seconds", "histogram", "", "How long a read took."),
    ("freshet_reads_total", "counter", "outcome", "Reads: complete, partial."),
    ("freshet_read_rows_total", "counter", "kind, state", "Rows: present, absent, unanswered."),
)
"""Of `freshet.ReadMetrics`, in the ranker's process."""


def series(metrics: Metrics) -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Every metric by its name as Prometheus has it: type, labels, help."""
    found = {}
    for collector in _collectors(metrics):
        suffix = "_total" if collector._type == "counter" else ""
        found[collector._name + suffix] = collector._type, tuple(collector._labelnames), collector._documentation
    return found


def page() -> str:
    """The page, whole."""
    rows = [
        f"| `{name}` | {kind} | {', '.join(labels)} | {about} |"
        for name, (kind, labels, about) in sorted(series(Metrics()).items())
    ]
    reader = [f"| `{name}` | {kind} | {labels} | {about} |" for name, kind, labels, about in READER]
    labels = [f"| {name} | {values} |" for name, values in LABELS.items()]
    head = "| metric | type | labels | meaning |\n|---|---|---|---|\n"
    return f"""# Metrics

<!-- made by python -m docs.generators.metrics_page; a test compares -->

`freshet worker --metrics-port 9464` (or `FRESHET_METRICS__PORT`) answers on loopback; `FRESHET_METRICS__HOST` binds
another address. `/metrics` is Prometheus' text format; `/livez` answers 200 while the process makes progress, whatever
Kafka and Redis do; `/readyz` answers 200 when all lanes run, none waits for a dependency and Redis answers. Both say
why not, as JSON. Units are in the names. What to do about an alert: the [runbook](../use/operators/runbook.md).

## Metrics of a worker

{head}{chr(10).join(rows)}

`freshet_lag_seconds` counts from when the worker first saw a record beyond the position, with a resolution of five
seconds. Records that were there before the worker started are at least as old as the worker. Every worker reports all
partitions, so take the `max` over workers.

## Metrics of a ranker

`freshet.ReadMetrics`, registered in the ranker's own process ([Read features](../use/rankers/read.md)).

{head}{chr(10).join(reader)}

## Labels

| label | values |
|---|---|
{chr(10).join(labels)}
"""


def _collectors(metrics: Metrics) -> list[Any]:
    return list(metrics.registry._collector_to_names)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
