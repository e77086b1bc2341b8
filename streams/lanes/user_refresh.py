"""The lane user-refresh: every few moments, new features for the users who did something.

Owns the timer and the order claim → load → infer → publish → complete. Must not decide who is due
(`store.refresh_queue`) nor how a user is inferred (`processors.users.refresh`). A claim is completed only after its
features are confirmed; a worker that dies, or takes longer than its lease, leaves its users to the next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from redis import RedisError

from freshet.reader import FeatureReader
from freshet.records import UserFeatures, UserTier
from processors.users.refresh import UserRefresher
from store.erasure_watermarks import Erasures
from store.histories import History, HistoryStore
from store.refresh_queue import Lease, RefreshPolicy, RefreshQueue
from store.refreshed_versions import ANNOUNCE_S, RefreshedVersions
from streams.backoff import Backoff
from streams.kafka.producer import delivered
from streams.lanes.live_catalogue import LiveCatalogue
from streams.lanes.live_reasoner import LiveReasoner
from streams.wiring.resources import Resources, failure_of

NAME = "user-refresh"
log = logging.getLogger(__name__)
T = TypeVar("T")

_DRAIN_S = 5.0


class UserRefreshLane:
    """See `streams.wiring.resources.Lane`."""

    name = NAME

    def __init__(self, resources: Resources) -> None:
        settings = resources.settings
        self._resources = resources
        self._due = RefreshQueue(
            resources.redis, settings.version, settings.key_prefix, policy=RefreshPolicy.of(settings)
        )
        self._versions = RefreshedVersions(resources.redis, settings.key_prefix, settings.version)
        self._erasures = Erasures(resources.redis, settings.key_prefix)
        self._announce_at = 0.0
        self._together = settings.refresh_batch  # fewer while a batch takes longer than its lease
        self._histories = HistoryStore(
            resources.redis, settings.key_prefix, length=settings.history_length, ttl_s=settings.feature_ttl_s
        )
        reader = FeatureReader(
            resources.redis,
            settings.key_prefix,
            version=settings.version,
            dims=settings.dims,
            timeout_s=10.0,
            raise_errors=True,
        )
        self._catalogue = LiveCatalogue(reader, settings.dims)
        self._reasoner = LiveReasoner(resources)
        self._backoff = Backoff(NAME, resources.metrics)
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await asyncio.to_thread(self._reasoner.refresher)  # weights load before the first user waits for them
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
            asked = self._together
            if await self.refresh_once() < asked:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), self._resources.settings.refresh_poll_s)

    async def refresh_once(self) -> int:
        """Claim one batch of due users and refresh it; answers how many were claimed."""
        settings, metrics = self._resources.settings, self._resources.metrics
        if time.monotonic() >= self._announce_at:
            await self._redis(lambda: self._versions.announce(settings.version))
            self._announce_at = time.monotonic() + ANNOUNCE_S
        if not await self._redis(self._catalogue.sync):
            return 0  # no item has a vector yet: nothing could be said about anybody
        metrics.catalogue_items.set(self._catalogue.live)
        claimed_at = time.monotonic()
        claims = await self._redis(lambda: self._due.claim(self._together, settings.lease_s))
        state = await self._redis(self._due.state)
        metrics.refresh_queue.set(state.due)
        metrics.waiting_users.set(state.waiting)
        metrics.due_age.set(state.oldest_s)
        if claims:
            try:
                await self._refresh(claims, deadline=claimed_at + settings.lease_s)
            except asyncio.CancelledError:
                with suppress(RedisError):  # their lease ends anyhow
                    self._due.release(claims)
                raise
        return len(claims)

    async def _refresh(self, claims: Sequence[Lease], deadline: float) -> None:
        """1. load; 2. infer; 3. publish, confirmed, but nobody who was erased meanwhile; 4. complete.

        Past the lease the users are somebody else's.
        """
        metrics = self._resources.metrics
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                with metrics.batch_seconds.labels(lane=NAME).time():
                    histories = await self._redis(lambda: self._histories.load([claim.user_id for claim in claims]))
                    features = await asyncio.to_thread(self._infer, histories)
                    features = await self._standing(features)
                    await self._backoff.persevere(lambda: self._publish(features))
                    await self._take_back(features)
                    held = await self._redis(lambda: self._due.complete(claims))
        except TimeoutError:
            # Claimed again as many, they would come to nothing again.
            self._together = max(1, min(self._together, len(claims)) // 2)
            log.warning("gave up a batch of users: its lease ran out", extra={"lane": NAME, "users": len(claims)})
            return
        self._together = min(self._resources.settings.refresh_batch, 2 * self._together)
        if held < len(claims):
            log.warning("users went to another worker", extra={"lane": NAME, "users": len(claims) - held})
        now = self._resources.clock()
        metrics.batch_records.labels(lane=NAME).observe(len(claims))
        for one in features:
            metrics.users_refreshed.labels(tier=UserTier(one.tier).name.lower()).inc()
            metrics.freshness.labels(lane=NAME).observe(max(0, now - one.event_time) / 1000)

    def _infer(self, histories: Sequence[History]) -> list[UserFeatures]:
        """Users whose history is gone (expired, erased) get no features: there is nobody to say anything about."""
        known = [history for history in histories if history.item_ids]
        refresher: UserRefresher = self._reasoner.refresher()
        return refresher.refresh(known, self._catalogue.items) if known else []

    async def _standing(self, features: Sequence[UserFeatures]) -> list[UserFeatures]:
        """Without those of users who were erased while they were inferred."""
        timestamps = await self._redis(lambda: self._erasures.timestamps([one.user_id for one in features]))
        return [one for one, timestamp in zip(features, timestamps, strict=True) if one.event_time > timestamp]

    async def _take_back(self, features: Sequence[UserFeatures]) -> None:
        """Delete what was published after its user's erasure had told the topic: the last record of a key is kept.

        An erasure sets its mark before it tells the topic: either it is seen here, or its deletion comes later.
        """
        timestamps = await self._redis(lambda: self._erasures.timestamps([one.user_id for one in features]))
        late = {
            one.user_id: timestamp
            for one, timestamp in zip(features, timestamps, strict=True)
            if one.event_time <= timestamp
        }
        topic, producer = self._resources.topics.user_features, self._resources.producer
        if late:
            await self._backoff.persevere(
                lambda: delivered(
                    [producer.send(topic, user.encode(), None, timestamp=timestamp) for user, timestamp in late.items()]
                )
            )

    async def _publish(self, features: Sequence[UserFeatures]) -> None:
        topic, codec = self._resources.topics.user_features, self._resources.codec
        values = await asyncio.to_thread(lambda: [codec.encode(one, topic) for one in features])
        producer = self._resources.producer
        await delivered(
            [producer.send(topic, one.user_id.encode(), value) for one, value in zip(features, values, strict=True)]
        )

    async def _redis(self, call: Callable[[], T]) -> T:
        return await self._backoff.persevere(lambda: asyncio.to_thread(call))
