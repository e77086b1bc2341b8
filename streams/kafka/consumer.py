"""What every confluent consumer of Freshet is configured with, and what one lane reads.

Owns the consumer settings and the names of consumer groups. Must not consume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streams.kafka.producer import kafka_config
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class Subscription:
    """What `lane` reads, and the consumer group that its position is kept under."""

    lane: str
    group: str
    topics: tuple[str, ...]


def consumer_group(settings: Settings, lane: str, *, shared: bool = False) -> str:
    """The group a lane reads Kafka in: one for each version, so that two versions each see every record.

    `shared`: one group for the workers of all versions, as the result belongs to none of them.
    """
    version = "" if shared else f"{settings.version}-"
    return f"{settings.topic_prefix}freshet-{version}{lane}"


def consumer_config(settings: Settings, group: str, **more: Any) -> dict[str, Any]:
    """Settings of a consumer that acknowledges by itself and never stalls."""
    return kafka_config(
        settings,
        **{
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            # Rebalances move only the partitions that change hands; the others are read on meanwhile (KIP-429).
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": int(1_000 * settings.kafka.session_timeout_s),
            # Members learn of a rebalance by it; it comes in two rounds.
            "heartbeat.interval.ms": int(min(1_000, 250 * settings.kafka.session_timeout_s)),
            # The default, 1000, stops fetching for a whole second whenever the local queue has been full.
            "fetch.queue.backoff.ms": 10,
            "fetch.wait.max.ms": 100,
            "queued.max.messages.kbytes": 65_536,
            **more,
        },
    )
