"""One process that runs lanes: starts them, waits for a signal or for the first that fails, stops them all.

Owns the life of the process and its exit code: 0 stopped on purpose, 1 a lane failed for good (2, wrong settings, is
the command line's). Must not know what a lane does.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from redis import RedisError
from redis.exceptions import RedisClusterException

from freshet.connect import Client, connect
from streams.backoff import Backoff
from streams.health import HealthServer
from streams.jobs.erasure.hourly_sweep import ErasureSweep
from streams.kafka.producer import kafka_config
from streams.kafka.topics import existing
from streams.lanes import build_lane
from streams.versions.membership import Membership
from streams.wiring.resources import Lane, Resources
from streams.worker.stall_detector import beat, watched

log = logging.getLogger(__name__)

# Several lanes drain side by side in five seconds each; what takes longer is abandoned and comes again.
STOP_S = 15.0


class MissingTopics(Exception):
    """The broker does not have the topics a worker needs; `freshet topics create` makes them."""


async def run(names: Sequence[str], resources: Resources, *, stop: asyncio.Event | None = None) -> int:
    """Run the lanes called `names` until `stop` is set, a signal comes or one fails; answers the exit code."""
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    lanes: list[Lane] = []
    beating = asyncio.create_task(beat(resources.health))
    observers = await asyncio.to_thread(_observe, names, resources)
    try:
        failure = await _first(_start(names, resources, lanes), stop)
        if failure is None and not stop.is_set():
            resources.health.started = True
            log.info("worker runs", extra={"lanes": list(names), "version": resources.settings.version})
            failure = await _first(_any_failure(lanes), stop)
    finally:
        resources.health.started = False
        await _stop(lanes[1:])
        await _stop(lanes[:1])  # the version: whoever still writes must count as alive
        await resources.close()
        for observer in observers:
            await asyncio.to_thread(observer)
        beating.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    if failure is not None:
        log.critical("worker failed", extra={"cause": repr(failure)}, exc_info=failure)
        return 1
    log.info("worker stopped")
    return 0


def _observe(names: Sequence[str], resources: Resources) -> list[Callable[[], None]]:
    """Answer probes and watch the lanes, where a port is set; what ends it."""
    settings, health = resources.settings, resources.health
    if not settings.metrics_port:
        return []
    redis = connect(settings.redis, socket_timeout=1, socket_connect_timeout=1)
    health.probe("dependencies", lambda: _waiting(resources))
    health.probe("Redis", lambda: _silent(redis))
    server = HealthServer(health, resources.metrics, port=settings.metrics_port, host=settings.metrics_host)
    watch = watched(settings, names, resources.metrics, health)
    watch.start()
    return [watch.stop, server.close, redis.close]


def _waiting(resources: Resources) -> str:
    """Which lanes wait for somebody to come back."""
    waiting = [
        sample.labels["lane"]
        for family in resources.metrics.backing_off.collect()
        for sample in family.samples
        if sample.value
    ]
    return f"{', '.join(sorted(waiting))} wait for one" if waiting else ""


def _silent(client: Client) -> str:
    """What Redis says instead of answering."""
    try:
        client.ping()
    except (RedisError, RedisClusterException) as error:
        return type(error).__name__
    return ""


async def _start(names: Sequence[str], resources: Resources, lanes: list[Lane]) -> BaseException | None:
    """Wait for Kafka and Redis, join the version, start the lanes one by one; answers what stands in the way."""
    backoff = Backoff("worker", resources.metrics)
    try:
        await backoff.persevere(lambda: asyncio.to_thread(_check_topics, resources))
        lanes.append(Membership(names, resources))
        await lanes[0].start()
        if "user-events" in names:
            lanes.append(ErasureSweep(resources))
            await lanes[-1].start()
        for name in names:
            lane = build_lane(name, resources)
            lanes.append(lane)
            await lane.start()
            log.info("lane runs", extra={"lane": name})
    except Exception as error:
        return error
    return None


def _check_topics(resources: Resources) -> None:
    """Every topic must exist: a missing one would show itself only with the first record for it."""
    wanted = [topic.name for topic in resources.topics.all()]
    found = existing(kafka_config(resources.settings), wanted)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise MissingTopics(f"no topic {', '.join(missing)}; `freshet topics create` makes what is missing")


async def _any_failure(lanes: Sequence[Lane]) -> BaseException | None:
    waits = [asyncio.create_task(lane.wait_failed(), name=lane.name) for lane in lanes]
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for wait in waits:
            wait.cancel()


async def _first(work: Coroutine[Any, Any, BaseException | None], stop: asyncio.Event) -> BaseException | None:
    """The outcome of `work`, or None where `stop` is set first."""
    task = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.wait([task])
    return None


async def _stop(lanes: Sequence[Lane]) -> None:
    """Stop all lanes side by side; one that fails or hangs does not keep the others from their last commit."""
    stops = {asyncio.create_task(lane.stop()): lane.name for lane in lanes}
    if not stops:
        return
    done, late = await asyncio.wait(stops, timeout=STOP_S)
    for task in late:
        log.error("lane did not stop in time", extra={"lane": stops[task]})
        task.cancel()
    for task in done:
        if (error := task.exception()) is not None:
            log.error("lane did not stop cleanly", extra={"lane": stops[task], "cause": repr(error)})
