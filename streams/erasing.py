"""What an erasure has to reach besides histories: the topics of features, the log of erasures, dead letters.

Owns telling Kafka, and finding the letters that name a user. Must not forget histories (`freshet.histories` does), nor
decide when dead letters are swept (`streams.lanes.erasure_sweep` and `freshet erase` do).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future

from freshet.erasures import Erasures, digest
from freshet.histories import DueVersions
from processors.validate import check_deletion
from schemas.codec import Codec, DecodeError
from schemas.records import Erasure, UserEvent, UserFeatures
from streams.dlq.letters import Letter
from streams.dlq.rewriting import drop
from streams.lanes.base import Context
from streams.producer import Delivery, kafka_config
from streams.ranges import RangeReader
from streams.topics import Topics, existing

FEWEST_BYTES = 8
"""An id of at least so many bytes is looked for inside of values that do not decode; shorter ones are everywhere."""


class ErasureNotices:
    """Deletions on the feature topics of all versions, and the erasure itself on the topic that keeps it for ever."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def send(self, moments: Mapping[str, int], versions: DueVersions) -> list[str]:
        """Confirmed when it returns; answers the topics. Raises what `streams.errors` judges; may be repeated.

        A deletion carries the time of the erasure, so that a replay of it cannot delete what came later.
        """
        if not moments:
            return []
        context, topics = self._context, self.topics(versions)
        sent: list[Future[Delivery]] = []
        for user_id, moment in moments.items():
            for topic in topics:
                sent.append(context.producer.send(topic, user_id.encode(), None, timestamp=max(1, moment)))
            one = Erasure(digest(user_id), moment)
            value = context.codec.encode(one, context.topics.erasures)
            sent.append(context.producer.send(context.topics.erasures, one.user_digest.encode(), value))
        for future in sent:
            future.result()
        return [*topics, context.topics.erasures]

    def topics(self, versions: DueVersions) -> list[str]:
        """Where users of any version are: our own version's topic, and those of the others that have one."""
        settings, own = self._context.settings, self._context.topics.user_features
        named = {Topics(settings, version).user_features for version in (*versions.marked, *versions.others)} - {own}
        return [own, *sorted(existing(kafka_config(settings), named) if named else ())]


def read_erasures(context: Context, progress: Callable[[int, int], None] = lambda _done, _all: None) -> dict[str, int]:
    """Every erasure that Kafka keeps, by digest. Raises `NoTopic`, `KafkaException`."""
    found: dict[str, int] = {}
    with RangeReader(context.settings) as reader:
        ranges = reader.find(context.topics.erasures)
        total = sum(map(len, ranges))
        reader.begin(ranges)
        while reader.open:
            for message in reader.poll(10_000, 0.5):
                try:
                    one = context.codec.decode(Erasure, message.value() or b"")
                except DecodeError:
                    continue
                found[one.user_digest] = max(one.erased_time, found.get(one.user_digest, 0))
            progress(sum(reader.scanned[one.place] - one.first for one in ranges if len(one)), total)
    return found


def names_user(codec: Codec, moments: Mapping[str, int]) -> Callable[[Letter], bool]:
    """Whether a dead letter is about one of these users, from before its erasure.

    By its record's key; by the user in its value, where that decodes; else, for ids of `FEWEST_BYTES`, by the id's
    bytes inside of what does not decode. What a user did after the erasure is not meant.
    """
    by_key = {user_id.encode(): moment for user_id, moment in moments.items()}
    long = {key: moment for key, moment in by_key.items() if len(key) >= FEWEST_BYTES}

    def named(letter: Letter) -> bool:
        one = letter.content
        if one is None:
            return _inside(letter.record.value, letter.record.timestamp, long)
        if one.key in by_key and one.timestamp <= by_key[one.key]:
            return True
        user_id = _user_of(codec, one.topic, one.value)
        if user_id is not None:
            return one.timestamp <= by_key.get(user_id, -1)
        return _inside(one.value, one.timestamp, long)

    return named


def sweep(context: Context, moments: Mapping[str, int]) -> dict[str, int]:
    """Remove the dead letters that name these users; answers how many, by topic. Raises as `drop` does."""
    removed: dict[str, int] = {}
    which = names_user(context.codec, moments)
    wanted = [topic.name for topic in context.topics.all() if topic.name.endswith(Topics.dead_letters(""))]
    for topic in sorted(existing(kafka_config(context.settings), wanted)):
        gone = drop(context.settings, context.redis, context.codec, topic, which).dropped
        if gone:
            removed[topic] = gone
    return removed


def sweep_owed(context: Context) -> int:
    """Remove the dead letters of everybody who was erased since the last sweep; answers of how many users."""
    erasures = Erasures(context.redis, context.settings.key_prefix)
    owed = erasures.owed()
    if owed:
        sweep(context, owed)
        erasures.settle(list(owed))
    return len(owed)


def check_user(user_id: str) -> str:
    """`user_id`, if a user can be called so; raises `ContractViolation`."""
    return check_deletion(user_id.encode(errors="surrogateescape"))


def _user_of(codec: Codec, topic: str, value: bytes | None) -> bytes | None:
    """The user in a value of a users' topic, None where it does not decode or is about no user."""
    if value is None:
        return None
    try:
        if "user-features" in topic:
            return codec.decode(UserFeatures, value).user_id.encode()
        return codec.decode(UserEvent, value).user_id.encode()
    except DecodeError:
        return None


def _inside(value: bytes | None, timestamp: int, ids: Mapping[bytes, int]) -> bool:
    return value is not None and any(timestamp <= moment and key in value for key, moment in ids.items())
