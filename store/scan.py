"""Walks over very many keys without blocking a server: in small steps, node by node, at a limited rate.

Owns how keys are found and headers are read in bulk. Must not know what for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from redis.cluster import RedisCluster

from freshet.blob import HEADER, BlobHeader, decode_header
from freshet.connect import Client

STEP = 250
"""Keys per command: takes 0.2 ms of a busy server's time for SCAN, 0.5 for ZSCAN."""
RATE = 50_000.0
"""Keys per second: about a twentieth of one server's time, and as much again if each is deleted."""


class Pace:
    """Limits a walk to `rate` keys per second, by sleeping between its steps."""

    def __init__(
        self,
        rate: float = RATE,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not rate > 0:
            raise ValueError(f"rate is {rate}, wanted a positive number of keys a second")
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._free_at = 0.0

    def spend(self, keys: int) -> None:
        """Account for `keys`, and sleep if the walk is ahead of its rate; unused time is not saved up."""
        now = self._clock()
        # `max`: after a pause, saved-up time would let a burst through.
        self._free_at = max(now, self._free_at) + keys / self._rate
        if self._free_at > now:
            self._sleep(self._free_at - now)


def nodes(client: Client) -> list[Any]:
    """What to walk one by one: the primaries of a Cluster, or [None] for a single server."""
    return list(client.get_primaries()) if isinstance(client, RedisCluster) else [None]  # type: ignore[no-untyped-call]


def scan(client: Client, pattern: str, pace: Pace, *, node: Any = None) -> Iterator[list[bytes]]:
    """The keys of one node that match, step by step; SCAN may return one twice.

    Their order is that of the server's hash table, so the first few thousand are a fair sample of all.
    """
    cursor: Any = 0
    target: dict[str, Any] = {} if node is None else {"target_nodes": node}
    while True:
        answer: Any = client.scan(cursor, match=pattern, count=STEP, **target)
        cursor, keys = answer
        if node is not None:  # redis-py returns a cursor for each node of a Cluster
            cursor = next(iter(cursor.values()))
        pace.spend(STEP)
        if keys:
            yield keys
        if not cursor:
            return


def headers(client: Client, keys: Sequence[str | bytes]) -> list[BlobHeader | None]:
    """The header under each key, None if there is none; a tombstone has one too. One pipelined round trip."""
    pipeline: Any = client.pipeline(transaction=False)
    for key in keys:
        pipeline.getrange(key, 0, HEADER.size - 1)  # 40 bytes instead of the vectors
    return [decode_header(head) for head in pipeline.execute()]
