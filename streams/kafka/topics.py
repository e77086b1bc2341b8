"""Every topic, defined once: name, partitions, compaction, retention; and how they are made.

Owns topic names and settings. Must not produce or consume.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from streams.errors import KAFKA_REFUSALS
from streams.settings import Settings

_DAY_MS = 86_400_000

# A key's older records stay for a day, so that a lane an hour behind still sees each step; tombstones stay a week, so
# that a sink that was down over a weekend still hears of a deletion.
_COMPACTED = {
    "cleanup.policy": "compact",
    "min.compaction.lag.ms": str(_DAY_MS),
    # What a tombstone deletes is gone within a week of it: the cleaner takes no segment that is still written to.
    "segment.ms": str(_DAY_MS),
    "max.compaction.lag.ms": str(5 * _DAY_MS),
    "delete.retention.ms": str(7 * _DAY_MS),
}
_LOG = {"cleanup.policy": "delete", "retention.ms": str(30 * _DAY_MS)}
# A dead letter is its record and then some: let it be larger than the largest record.
DEAD_LETTER_BYTES = 4 * 1024 * 1024
# At a first contact a certificate that does not fit is one, too.
_REFUSALS = KAFKA_REFUSALS | {KafkaError._SSL}
_DEAD_LETTERS = {**_LOG, "max.message.bytes": str(DEAD_LETTER_BYTES)}


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as `freshet topics create` makes it."""

    name: str
    partitions: int
    about: str
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def compacted(self) -> bool:
        """Whether only the newest record of each key is kept."""
        return self.config.get("cleanup.policy") == "compact"


class Topics:
    """The topics of one deployment; the feature topics are those of `settings.version` (or of `version`)."""

    def __init__(self, settings: Settings, version: str = "") -> None:
        prefix, version = settings.topic_prefix, version or settings.version
        self._partitions = settings.kafka.partitions
        self._replication = settings.kafka.replication
        self.items = f"{prefix}items"
        self.user_events = f"{prefix}user-events"
        self.item_knowledge = f"{prefix}item-knowledge"
        self.item_features_stem = f"{prefix}item-features-"
        self.user_features_stem = f"{prefix}user-features-"
        self.item_features = f"{self.item_features_stem}{version}"
        self.user_features = f"{self.user_features_stem}{version}"
        self.erasures = f"{prefix}erasures"

    @staticmethod
    def dead_letters(topic: str) -> str:
        """Where the unreadable records of `topic` go."""
        return f"{topic}.dlq"

    @property
    def dead_letter_topics(self) -> list[str]:
        """The topics of dead letters, by name."""
        return [topic.name for topic in self.all() if topic.name.endswith(self.dead_letters(""))]

    def all(self) -> list[Topic]:
        """Every topic of this version with its dead letters, sources first."""
        n = self._partitions
        flow = [
            Topic(self.items, n, "Items from the platform; key item id, null deletes", _COMPACTED),
            Topic(self.user_events, n, "User events from the platform; key user id, null erases", _LOG),
            Topic(self.item_knowledge, n, "Distilled knowledge; key item id", _COMPACTED),
            Topic(self.item_features, n, "Item vectors of one version; key item id", _COMPACTED),
            Topic(self.user_features, n, "User vectors of one version; key user id", _COMPACTED),
        ]
        dead_letters = [Topic(self.dead_letters(t.name), n, f"Dead letters of {t.name}", _DEAD_LETTERS) for t in flow]
        erasures = Topic(self.erasures, n, "Who was erased, up to when; key digest of the user id", _COMPACTED)
        return [*flow, *dead_letters, erasures]

    def create(self, kafka: Mapping[str, str | int], *, timeout_s: float = 30.0) -> list[str]:
        """Make the topics that do not exist yet and return their names; existing ones stay as they are.

        Returns when the broker shows them to clients, which is a moment after it has made them. Raises
        `KafkaException` where the broker refuses or cannot be reached, `TimeoutError` where they stay hidden.
        """
        wanted = [
            NewTopic(t.name, num_partitions=t.partitions, replication_factor=self._replication, config=dict(t.config))
            for t in self.all()
        ]
        made = []
        # Closed by hand: a future's error and this frame hold each other, and the client with them. Until the garbage
        # collector comes it would look for brokers that are gone, and complain.
        with AdminClient(dict(kafka)) as admin:
            for name, future in admin.create_topics(wanted, request_timeout=timeout_s).items():
                try:
                    future.result()
                    made.append(name)
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                        raise
        names = [topic.topic for topic in wanted]
        deadline = time.monotonic() + timeout_s
        while hidden := set(names) - set(existing(kafka, names)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"made, but not shown to clients after {timeout_s:g} s: {', '.join(sorted(hidden))}")
            time.sleep(0.05)
        return made


def existing(kafka: Mapping[str, str | int], names: Iterable[str], *, timeout_s: float = 10.0) -> dict[str, int]:
    """Partition counts of those `names` that exist; raises `KafkaException` where no broker answers, or one refuses us.

    librdkafka reports a refusal to a callback alone, and goes on trying: a wrong password would look like a broker that
    is away.
    """
    refused: list[KafkaError] = []

    def note(error: KafkaError) -> None:
        if error.code() in _REFUSALS:
            refused.append(error)

    with AdminClient({**kafka, "error_cb": note}) as admin:  # type: ignore[dict-item]
        try:
            found = admin.list_topics(timeout=timeout_s).topics
        except KafkaException:
            admin.poll(0)
            if refused:
                raise KafkaException(refused[0]) from None
            raise
    return {name: len(found[name].partitions) for name in names if name in found}
