"""Walking over very many keys without holding up a server: small steps, node by node, at a rate.

Owns how keys are found and headers are read in bulk. Must not know why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from redis.cluster import RedisCluster

from freshet.blob import HEADER, BlobHeader, decode_header
from freshet.connect import Client

STEP = 250
"""Keys looked at in one command: 0.2 ms of a busy server's time, of a sorted set 0.5."""
RATE = 50_000.0
"""Keys looked at a second: about a twentieth of one server's time, and as much again where each is deleted."""


class Pace:
    """Holds a walk to `rate` keys a second, by sleeping between its steps."""

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
        """Wait until the server has had its rest for so many keys; time not used is not saved up."""
        now = self._clock()
        self._free_at = max(now, self._free_at) + keys / self._rate
        if self._free_at > now:
            self._sleep(self._free_at - now)


def nodes(client: Client) -> list[Any]:
    """What to walk over one by one: the primaries of a Cluster, or [None] for a single server."""
    return list(client.get_primaries()) if isinstance(client, RedisCluster) else [None]  # type: ignore[no-untyped-call]


def scan(client: Client, pattern: str, pace: Pace, *, node: Any = None) -> Iterator[list[bytes]]:
    """Keys of one node that match, step by step; one may come twice, as SCAN says.

    Their order is that of the server's hash table: the first few thousand are a fair sample of all.
    """
    cursor: Any = 0
    place: dict[str, Any] = {} if node is None else {"target_nodes": node}
    while True:
        found: Any = client.scan(cursor, match=pattern, count=STEP, **place)
        cursor, keys = found
        if node is not None:
            cursor = next(iter(cursor.values()))
        pace.spend(STEP)
        if keys:
            yield keys
        if not cursor:
            return


def headers(client: Client, keys: Sequence[str | bytes]) -> list[BlobHeader | None]:
    """The header under each key, None where there is none; a deletion has one too. One pipelined round trip."""
    pipeline: Any = client.pipeline(transaction=False)
    for key in keys:
        pipeline.getrange(key, 0, HEADER.size - 1)
    return [decode_header(found) for found in pipeline.execute()]
