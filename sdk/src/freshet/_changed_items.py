"""Which items of a version were written and deleted since a moment, by the two indexes of each bucket.

Owns that question, for clients of both kinds. Off the hot path: it costs what has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from freshet.layout import Keys
from freshet.results import ItemChanges

CLOCK_SKEW_MS = 10_000
"""Nodes of a Cluster stamp writes with their own clocks: changes are told again that long."""

ScoredIds = Sequence[tuple[bytes, float]]


def ask(client: Any, keys: Keys, version: str, since_ms: int) -> Any:
    """The pipeline that asks both indexes of every bucket; in one transaction where there is one server."""
    pipeline = client.pipeline() if keys.clustered else client.pipeline(transaction=True)
    for bucket in range(keys.buckets):
        for key in (keys.items(version, bucket), keys.deleted(version, bucket)):
            pipeline.zrange(key, since_ms, "+inf", byscore=True, withscores=True)
    return pipeline


def changes(keys: Keys, version: str, since_ms: int, answers: Sequence[ScoredIds]) -> ItemChanges:
    """What the answers of `ask` say."""
    written = [row for rows in answers[::2] for row in rows]
    deleted = [row for rows in answers[1::2] for row in rows]
    newest = int(max((score for _, score in (*written, *deleted)), default=since_ms))
    if keys.clustered:
        newest = max(since_ms, newest - CLOCK_SKEW_MS)
    return ItemChanges(version, _ids(written), _ids(deleted), newest)


def _ids(rows: ScoredIds) -> list[str]:
    return [one.decode() for one, _ in rows]
