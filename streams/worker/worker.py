"""One process that runs lanes: starts them, waits for a signal or for the first that fails, stops them all.

Owns the life of the process and its exit code: 0 stopped on purpose, 1 a lane failed for good (2, wrong settings, is
the command line's). Must not know what a lane does.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from streams.kafka.producer import kafka_config
from streams.kafka.topics import existing
from streams.lanes.lane import Lane
from streams.lanes.table import lane_specs
from streams.versions.membership import Membership
from streams.wiring.resources import Resources
from streams.worker.services import observers, services
from streams.worker.stall_detector import beat

log = logging.getLogger(__name__)

# Several lanes drain side by side in five seconds each; what takes longer is abandoned and comes again.
STOP_S = 15.0


class MissingTopics(Exception):
    """The broker does not have the topics a worker needs; `freshet topics create` makes them."""


@dataclass(frozen=True, slots=True)
class Worker:
    """All that one process runs, in the order of starting; it stops in the reverse order.

    1. `observers` answer probes and watch, from the first moment to the last;
    2. `topics` returns when every topic is there: a missing one would show itself only with the first record for it;
    3. `membership` joins the version, or is refused; whoever writes must count as alive, so it leaves after the lanes;
    4. `services` are what lanes need beside them;
    5. `lanes` do the work. `close` releases what all of them shared.
    """

    observers: Sequence[Lane]
    topics: Callable[[], Awaitable[None]]
    membership: Lane
    services: Sequence[Lane]
    lanes: Sequence[Lane]
    close: Callable[[], Awaitable[None]]

    async def start(self) -> None:
        """Start all, one by one; raises what stands in the way."""
        for observer in self.observers:
            await observer.start()
        await self.topics()
        for one in (self.membership, *self.services):
            await one.start()
        for lane in self.lanes:
            await lane.start()
            log.info("lane runs", extra={"lane": lane.name})

    async def wait_failed(self) -> BaseException:
        """The error of the first that fails."""
        running = (self.membership, *self.services, *self.lanes)
        waits = [asyncio.create_task(one.wait_failed(), name=one.name) for one in running]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for wait in waits:
                wait.cancel()

    async def stop(self) -> None:
        """Stop all; one that fails or hangs does not keep the others from their last commit."""
        await _stop([*self.services, *self.lanes])
        await _stop([self.membership])
        await self.close()
        await _stop(self.observers)


def make_worker(names: Sequence[str], resources: Resources) -> Worker:
    """The worker of the lanes called `names`; nothing of it runs yet. Raises `UnknownLane`, `SettingError`."""
    specs = lane_specs(names)
    backoff = resources.backoff("worker")
    return Worker(
        observers=observers(names, resources),
        topics=lambda: backoff.persevere(lambda: asyncio.to_thread(_check_topics, resources)),
        membership=Membership(names, resources),
        services=services(specs, resources),
        lanes=[spec.build(resources) for spec in specs],
        close=resources.close,
    )


async def run(names: Sequence[str], resources: Resources, *, stop: asyncio.Event | None = None) -> int:
    """Run the lanes called `names` until `stop` is set, a signal comes or one fails; answers the exit code."""
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    beating = asyncio.create_task(beat(resources.health))
    try:
        failure = await _life(make_worker(names, resources), resources, stop)
    except Exception as error:  # not even put together
        failure = error
        await resources.close()
    finally:
        beating.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    if failure is not None:
        log.critical("worker failed", extra={"cause": repr(failure)}, exc_info=failure)
        return 1
    log.info("worker stopped")
    return 0


async def _life(worker: Worker, resources: Resources, stop: asyncio.Event) -> BaseException | None:
    """Start, run, stop; answers what ended it, None for `stop`."""
    health = resources.health
    try:
        failure = await _first(_error_of(worker.start()), stop)
        if failure is None and not stop.is_set():
            health.started = True
            lanes = [lane.name for lane in worker.lanes]
            log.info("worker runs", extra={"lanes": lanes, "version": resources.settings.version})
            failure = await _first(worker.wait_failed(), stop)
        return failure
    finally:
        health.started = False
        await worker.stop()


def _check_topics(resources: Resources) -> None:
    wanted = [topic.name for topic in resources.topics.all()]
    found = existing(kafka_config(resources.settings), wanted)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise MissingTopics(f"no topic {', '.join(missing)}; `freshet topics create` makes what is missing")


async def _error_of(work: Awaitable[None]) -> BaseException | None:
    try:
        await work
    except Exception as error:
        return error
    return None


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
    """Stop all of these side by side, each for `STOP_S` at most."""
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
