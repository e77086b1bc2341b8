"""An erasure on the topics: deletions of features in all versions, and the log of erasures, written and read.

Owns what is sent to Kafka. Must not forget histories: `store.histories` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

from freshet.records import Erasure
from schemas.codec import Codec, DecodeError
from store.erasure_watermarks import digest
from store.histories import QueuedVersions
from streams.kafka.producer import Delivery, Producer, kafka_config
from streams.kafka.ranges import RangeReader
from streams.kafka.topics import Topics, existing
from streams.settings import Settings


class ErasureNotices:
    """Deletions on the feature topics of all versions, and the erasure itself on the topic that keeps it for ever."""

    def __init__(self, settings: Settings, producer: Producer, codec: Codec) -> None:
        self._settings, self._producer, self._codec = settings, producer, codec
        self._topics = Topics(settings)

    def send(self, timestamps: Mapping[str, int], versions: QueuedVersions) -> list[str]:
        """Confirmed when it returns; answers the topics. Raises what `streams.errors` judges; may be repeated.

        A deletion carries the time of the erasure, so that a replay of it cannot delete what came later.
        """
        if not timestamps:
            return []
        topics, erasures = self.topics(versions), self._topics.erasures
        sent: list[Future[Delivery]] = []
        for user_id, timestamp in timestamps.items():
            for topic in topics:
                sent.append(self._producer.send(topic, user_id.encode(), None, timestamp=max(1, timestamp)))
            one = Erasure(digest(user_id), timestamp)
            value = self._codec.encode(one, erasures)
            sent.append(self._producer.send(erasures, one.user_digest.encode(), value))
        for future in sent:
            future.result()
        return [*topics, erasures]

    def topics(self, versions: QueuedVersions) -> list[str]:
        """Where users of any version are: our own version's topic, and those of the others that have one."""
        settings, own = self._settings, self._topics.user_features
        named = {Topics(settings, version).user_features for version in (*versions.queued, *versions.others)} - {own}
        return [own, *sorted(existing(kafka_config(settings), named) if named else ())]


def read_erasures(settings: Settings, codec: Codec) -> dict[str, int]:
    """Every erasure that Kafka keeps, by digest. Raises `NoTopic`, `NothingCame`, `KafkaException`."""
    found: dict[str, int] = {}
    with RangeReader(settings) as reader:
        ranges = reader.find(Topics(settings).erasures)
        for messages in reader.batches(ranges):
            for message in messages:
                try:
                    one = codec.decode(Erasure, message.value() or b"")
                except DecodeError:
                    continue
                found[one.user_digest] = max(one.erased_time, found.get(one.user_digest, 0))
    return found
