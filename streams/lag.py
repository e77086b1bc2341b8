"""How far each lane is behind, in records, from the broker's own offsets.

Owns one read-only question to the cluster. Must not join a group or move an offset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]


def consumer_lag(admin: AdminClient, groups: Mapping[str, Sequence[str]], *, timeout_s: float = 10.0) -> dict[str, int]:
    """Records that each group has not committed yet, over all partitions of its topics.

    `groups` maps a consumer group to the topics it reads. A partition without a commit counts from its first offset; a
    topic that does not exist counts as empty. Raises `KafkaException` when the cluster does not answer.
    """
    known = admin.list_topics(timeout=timeout_s).topics
    topics = {topic for names in groups.values() for topic in names if topic in known}
    partitions = {topic: list(known[topic].partitions) for topic in topics}
    every = [TopicPartition(topic, p) for topic, numbers in partitions.items() for p in numbers]
    if not every:
        return dict.fromkeys(groups, 0)
    ends = _offsets(admin, every, OffsetSpec.latest(), timeout_s)  # type: ignore[no-untyped-call]
    starts = _offsets(admin, every, OffsetSpec.earliest(), timeout_s)  # type: ignore[no-untyped-call]
    lags = {}
    for group, names in groups.items():
        committed = _committed(admin, group, timeout_s)
        lags[group] = sum(
            max(0, ends[topic, p] - max(committed.get((topic, p), 0), starts[topic, p]))
            for topic in names
            for p in partitions.get(topic, ())
        )
    return lags


def _offsets(
    admin: AdminClient, partitions: Sequence[TopicPartition], spec: OffsetSpec, timeout_s: float
) -> dict[tuple[str, int], int]:
    futures = admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=timeout_s)
    return {(p.topic, p.partition): future.result(timeout_s).offset for p, future in futures.items()}


def _committed(admin: AdminClient, group: str, timeout_s: float) -> dict[tuple[str, int], int]:
    request = [ConsumerGroupTopicPartitions(group)]
    future = admin.list_consumer_group_offsets(request, request_timeout=timeout_s)[group]
    try:
        answer = future.result(timeout_s)
    except KafkaException as error:
        if error.args[0].name() == "GROUP_ID_NOT_FOUND":
            return {}
        raise
    return {(p.topic, p.partition): p.offset for p in answer.topic_partitions if p.offset >= 0}
