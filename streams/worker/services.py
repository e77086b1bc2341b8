"""What runs in a worker beside its lanes: who answers probes and watches, and what single lanes need.

Owns which services there are. Must not know what a lane does: a lane's entry in the table names what it needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from redis import RedisError
from redis.exceptions import RedisClusterException

from freshet.connect import Client, connect
from streams.health import HealthServer
from streams.jobs.erasure.hourly_sweep import ErasureSweep
from streams.kafka.producer import kafka_config
from streams.lanes.lane import Lane
from streams.lanes.table import LaneSpec, subscriptions
from streams.wiring.resources import Resources
from streams.worker.stall_detector import StallWatcher

SERVICES: Mapping[str, Callable[[Resources], Lane]] = {"erasure-sweep": ErasureSweep}
"""By the names in `LaneSpec.services`."""


class HealthService:
    """The HTTP server of `/livez`, `/readyz` and `/metrics`, with a Redis client of its own; see `Lane`.

    Its client waits a second at most, and shares no connection with lanes that may hold all of theirs.
    """

    name = "health"

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._redis: Client | None = None
        self._server: HealthServer | None = None

    async def start(self) -> None:
        await asyncio.to_thread(self._start)

    async def stop(self) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.close)
        if self._redis is not None:
            self._redis.close()

    async def wait_failed(self) -> BaseException:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    def _start(self) -> None:
        settings, health = self._resources.settings, self._resources.health
        client = self._redis = connect(settings.redis.url, socket_timeout=1, socket_connect_timeout=1)
        health.probe("Redis", lambda: _silence(client))
        self._server = HealthServer(
            health, self._resources.metrics, port=settings.metrics.port, host=settings.metrics.host
        )


def observers(names: Sequence[str], resources: Resources) -> list[Lane]:
    """Who answers probes and watches the lanes called `names`; none where no port is set."""
    settings = resources.settings
    if not settings.metrics.port:
        return []
    watcher = StallWatcher(kafka_config(settings), subscriptions(settings, names), resources.metrics, resources.health)
    return [HealthService(resources), watcher]


def services(specs: Sequence[LaneSpec], resources: Resources) -> list[Lane]:
    """What these lanes need beside them, each once."""
    names = dict.fromkeys(name for spec in specs for name in spec.services)
    return [SERVICES[name](resources) for name in names]


def _silence(client: Client) -> str:
    """Why Redis does not answer; empty where it does."""
    try:
        client.ping()
    except (RedisError, RedisClusterException) as error:
        return type(error).__name__
    return ""
