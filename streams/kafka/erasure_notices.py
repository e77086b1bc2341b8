"""An erasure on the topics: deletions of features in all versions, and the log of erasures, written and read.

Owns what Kafka is told. Must not forget histories: `store.histories` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

from freshet.records import Erasure
from schemas.codec import DecodeError
from store.erasure_watermarks import digest
from store.histories import QueuedVersions
from streams.kafka.producer import Delivery, kafka_config
from streams.kafka.ranges import RangeReader
from streams.kafka.topics import Topics, existing
from streams.resources import Context


class ErasureNotices:
    """Deletions on the feature topics of all versions, and the erasure itself on the topic that keeps it for ever."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def send(self, timestamps: Mapping[str, int], versions: QueuedVersions) -> list[str]:
        """Confirmed when it returns; answers the topics. Raises what `streams.errors` judges; may be repeated.

        A deletion carries the time of the erasure, so that a replay of it cannot delete what came later.
        """
        if not timestamps:
            return []
        context, topics = self._context, self.topics(versions)
        sent: list[Future[Delivery]] = []
        for user_id, timestamp in timestamps.items():
            for topic in topics:
                sent.append(context.producer.send(topic, user_id.encode(), None, timestamp=max(1, timestamp)))
            one = Erasure(digest(user_id), timestamp)
            value = context.codec.encode(one, context.topics.erasures)
            sent.append(context.producer.send(context.topics.erasures, one.user_digest.encode(), value))
        for future in sent:
            future.result()
        return [*topics, context.topics.erasures]

    def topics(self, versions: QueuedVersions) -> list[str]:
        """Where users of any version are: our own version's topic, and those of the others that have one."""
        settings, own = self._context.settings, self._context.topics.user_features
        named = {Topics(settings, version).user_features for version in (*versions.queued, *versions.others)} - {own}
        return [own, *sorted(existing(kafka_config(settings), named) if named else ())]


def read_erasures(context: Context) -> dict[str, int]:
    """Every erasure that Kafka keeps, by digest. Raises `NoTopic`, `NothingCame`, `KafkaException`."""
    found: dict[str, int] = {}
    with RangeReader(context.settings) as reader:
        ranges = reader.find(context.topics.erasures)
        for messages in reader.batches(ranges):
            for message in messages:
                try:
                    one = context.codec.decode(Erasure, message.value() or b"")
                except DecodeError:
                    continue
                found[one.user_digest] = max(one.erased_time, found.get(one.user_digest, 0))
    return found
