"""Which items of a version were written and deleted since a given time, from the two indexes of each bucket.

Owns this request, for clients of both kinds. Not for the hot path: its cost grows with the number of changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from freshet.layout import Keys
from freshet.results import ItemChanges

CLOCK_SKEW_MS = 10_000
"""The nodes of a Cluster stamp writes with their own clocks, so changes this recent are reported again."""

ScoredIds = Sequence[tuple[bytes, float]]


def ask(client: Any, keys: Keys, version: str, since_ms: int) -> Any:
    """A pipeline that reads both indexes of every bucket, in one transaction on a single server."""
    pipeline = client.pipeline() if keys.clustered else client.pipeline(transaction=True)
    for bucket in range(keys.buckets):
        for key in (keys.items(version, bucket), keys.deleted(version, bucket)):
            pipeline.zrange(key, since_ms, "+inf", byscore=True, withscores=True)
    return pipeline


def changes(keys: Keys, version: str, since_ms: int, answers: Sequence[ScoredIds]) -> ItemChanges:
    """The result that the answers to `ask` make."""
    written = [row for rows in answers[::2] for row in rows]
    deleted = [row for rows in answers[1::2] for row in rows]
    newest = int(max((score for _, score in (*written, *deleted)), default=since_ms))
    if keys.clustered:
        newest = max(since_ms, newest - CLOCK_SKEW_MS)
    return ItemChanges(version, _ids(written), _ids(deleted), newest)


def _ids(rows: ScoredIds) -> list[str]:
    return [item_id.decode() for item_id, _ in rows]
