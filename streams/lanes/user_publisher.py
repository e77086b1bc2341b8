"""User features on their topic, and nobody among them who was erased meanwhile.

Owns the order of publishing and erasing. The topic is compacted, so the last record of a user is what is kept: features
published behind the deletion of an erasure would bring the user back. An erasure sets its watermark in Redis before it
writes its deletion. So: 1. leave out whom a watermark names by now; 2. publish, confirmed; 3. look again, and delete
whom a watermark names that was set meanwhile: its own deletion may stand before what was just published. An erasure
that sets its watermark after 3. writes its deletion behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from freshet.records import UserFeatures
from store.erasure_watermarks import Erasures
from streams.backoff import Backoff
from streams.kafka.producer import delivered
from streams.wiring.resources import Resources

T = TypeVar("T")


class UserPublisher:
    """Publishes to `user-features` of one version; waits while Redis or Kafka are away."""

    def __init__(self, resources: Resources, backoff: Backoff) -> None:
        self._erasures = Erasures(resources.redis, resources.settings.key_prefix)
        self._topic = resources.topics.user_features
        self._producer, self._codec = resources.producer, resources.codec
        self._backoff = backoff

    async def publish(self, features: Sequence[UserFeatures]) -> list[UserFeatures]:
        """Publish features of users who were not erased since; answers those. Raises fatal errors only."""
        timestamps = await self._erased(features)
        standing = [one for one, erased in zip(features, timestamps, strict=True) if one.event_time > erased]
        await self._backoff.persevere(lambda: self._send(standing))
        await self._take_back(standing)
        return standing

    async def _send(self, features: Sequence[UserFeatures]) -> None:
        values = await asyncio.to_thread(lambda: [self._codec.encode(one, self._topic) for one in features])
        await delivered(
            [
                self._producer.send(self._topic, one.user_id.encode(), value)
                for one, value in zip(features, values, strict=True)
            ]
        )

    async def _take_back(self, features: Sequence[UserFeatures]) -> None:
        """Delete what was published behind the deletion of its user's erasure, at the time of the erasure."""
        timestamps = await self._erased(features)
        late = {
            one.user_id: erased for one, erased in zip(features, timestamps, strict=True) if one.event_time <= erased
        }
        if late:
            await self._backoff.persevere(
                lambda: delivered(
                    [
                        self._producer.send(self._topic, user_id.encode(), None, timestamp=erased)
                        for user_id, erased in late.items()
                    ]
                )
            )

    async def _erased(self, features: Sequence[UserFeatures]) -> list[int]:
        """When each of these users was erased, 0 for who was not."""
        user_ids = [one.user_id for one in features]
        return await self._redis(lambda: self._erasures.timestamps(user_ids))

    async def _redis(self, call: Callable[[], T]) -> T:
        return await self._backoff.persevere(lambda: asyncio.to_thread(call))
