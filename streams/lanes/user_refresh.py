"""The lane user-refresh: every few moments, new features for the users who did something.

Owns the timer and the order lease → load → infer → publish → complete. Must not decide who is refreshed
(`store.refresh_queue`) nor how (`streams.lanes.user_inference`). A lease is completed only after its features are
confirmed; a worker that dies, or takes longer than its lease, leaves its users to the next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from redis import RedisError

from freshet.records import UserFeatures, UserTier
from store.refresh_queue import Lease, RefreshPolicy, RefreshQueue
from store.refreshed_versions import ANNOUNCE_S, RefreshedVersions
from streams.kafka.consumer import Subscription
from streams.lanes.lane import failure_of
from streams.lanes.user_inference import UserInference
from streams.lanes.user_publisher import UserPublisher
from streams.wiring.resources import Resources

NAME = "user-refresh"
POLL_S = 1.0
"""Between two looks at the queue."""
log = logging.getLogger(__name__)
T = TypeVar("T")

_DRAIN_S = 5.0


class BatchSize:
    """How many users are leased together: at most `most`, fewer while a batch takes longer than its lease.

    Leased again as many, such users would come to nothing again, on this worker and on every other.
    """

    def __init__(self, most: int) -> None:
        self._most = self.users = most

    def too_large(self, users: int) -> None:
        """So many did not get through: half as many next time."""
        self.users = max(1, min(self.users, users) // 2)

    def fits(self) -> None:
        """A batch got through: twice as many next time."""
        self.users = min(self._most, 2 * self.users)


class UserRefreshLane:
    """See `streams.lanes.lane.Lane`."""

    name = NAME

    def __init__(self, _subscription: Subscription, resources: Resources) -> None:
        settings = resources.settings
        self._settings, self._metrics, self._clock = settings, resources.metrics, resources.clock
        self._queue = RefreshQueue(
            resources.redis, settings.version, settings.key_prefix, policy=RefreshPolicy.of(settings.refresh)
        )
        self._versions = RefreshedVersions(resources.redis, settings.key_prefix, settings.version)
        self._announce_at = 0.0
        self._batch = BatchSize(settings.refresh.batch)
        self._backoff = resources.backoff(NAME)
        self._inference = UserInference(resources)
        self._publisher = UserPublisher(resources, self._backoff)
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        # Weights load before the first user waits for them.
        await asyncio.to_thread(self._inference.reasoner.refresher)
        self._task = asyncio.create_task(self._run(), name=NAME)

    async def stop(self) -> None:
        """End after the batch under way, or give its users back where it takes longer than seconds."""
        self._stopping.set()
        if self._task is None:
            return
        done, _ = await asyncio.wait([self._task], timeout=_DRAIN_S)
        if not done:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def wait_failed(self) -> BaseException:
        assert self._task is not None
        return await failure_of(self._task)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            wanted = self._batch.users
            if await self.refresh_once() < wanted:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), POLL_S)

    async def refresh_once(self) -> int:
        """Lease one batch of users and refresh it; answers how many were leased."""
        await self._announce()
        if not await self._redis(self._inference.catalogue.sync):
            return 0  # no item has a vector yet: nothing could be inferred about anybody
        self._metrics.catalogue_items.set(self._inference.catalogue.live)
        deadline = time.monotonic() + self._settings.refresh.lease_s
        leases = await self._redis(lambda: self._queue.lease(self._batch.users, self._settings.refresh.lease_s))
        await self._show_queue()
        if leases:
            try:
                await self._refresh(leases, deadline)
            except asyncio.CancelledError:
                with suppress(RedisError):  # they end anyhow
                    self._queue.release(leases)
                raise
        return len(leases)

    async def _announce(self) -> None:
        """Say from time to time that this version is refreshed, so that users are queued in it too."""
        if time.monotonic() >= self._announce_at:
            await self._redis(lambda: self._versions.announce(self._settings.version))
            self._announce_at = time.monotonic() + ANNOUNCE_S

    async def _show_queue(self) -> None:
        state = await self._redis(self._queue.state)
        self._metrics.refresh_queue_users.set(state.due)
        self._metrics.refresh_waiting_users.set(state.waiting)
        self._metrics.refresh_queue_age.set(state.oldest_s)

    async def _refresh(self, leases: Sequence[Lease], deadline: float) -> None:
        """1. load; 2. infer; 3. publish, confirmed, but nobody who was erased meanwhile; 4. complete.

        Past the deadline, of `time.monotonic`, the users are somebody else's.
        """
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                with self._metrics.batch_seconds.labels(lane=NAME).time():
                    users = [lease.user_id for lease in leases]
                    histories = await self._redis(lambda: self._inference.load(users))
                    features = await asyncio.to_thread(self._inference.infer, histories)
                    published = await self._publisher.publish(features)
                    held = await self._redis(lambda: self._queue.complete(leases))
        except TimeoutError:
            self._batch.too_large(len(leases))
            log.warning("gave up a batch of users: its lease ran out", extra={"lane": NAME, "users": len(leases)})
            return
        self._batch.fits()
        if held < len(leases):
            log.warning("users went to another worker", extra={"lane": NAME, "users": len(leases) - held})
        self._count(len(leases), published)

    def _count(self, users: int, published: Sequence[UserFeatures]) -> None:
        now = self._clock()
        self._metrics.batch_records.labels(lane=NAME).observe(users)
        for one in published:
            self._metrics.users_refreshed.labels(tier=UserTier(one.tier).name.lower()).inc()
            self._metrics.freshness.labels(lane=NAME).observe(max(0, now - one.event_time) / 1000)

    async def _redis(self, call: Callable[[], T]) -> T:
        return await self._backoff.persevere(lambda: asyncio.to_thread(call))
