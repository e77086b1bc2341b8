"""The one place that decides what an error means: poison, transient or fatal; and every dead-letter reason.

Owns the families, the reasons and the table that maps exceptions to families. Must not import the modules whose
exceptions it names (torch, httpx and redis would come with them): the table holds qualified class names, matched
over the exception's bases, and a test resolves every name.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Any


class Family(Enum):
    """What a lane does about an error."""

    POISON = "poison"
    """This record can never succeed: dead letter, confirmed, then acknowledge and go on."""
    TRANSIENT = "transient"
    """A dependency is away or busy: keep the record, back off, try again; never dead-letter, never drop."""
    FATAL = "fatal"
    """Nothing this process does will help: stop with a non-zero exit, acknowledge nothing."""


class Reason(StrEnum):
    """Why a record became a dead letter; the only values the `reason` field ever has."""

    BAD_FRAMING = "bad_framing"
    """Neither Avro single-object encoding nor Confluent framing."""
    UNKNOWN_SCHEMA = "unknown_schema"
    """The schema it names is not one this reader knows."""
    BAD_PAYLOAD = "bad_payload"
    """The bytes do not decode under the schema they name."""
    MISSING_ID = "missing_id"
    """An item without item id."""
    MISSING_USER = "missing_user"
    """An event without user id."""
    MISSING_ITEM = "missing_item"
    """An event without item id."""
    MISSING_TYPE = "missing_type"
    """An event without event type."""
    EMPTY_TITLE = "empty_title"
    """An item whose title is empty or blank."""
    BAD_TIME = "bad_time"
    """An event time before 1971: zero, negative, or seconds where milliseconds are due."""
    FUTURE_TIME = "future_time"
    """An event time further in the future than `max_future_s`."""
    BAD_NUMBER = "bad_number"
    """A price or value that is NaN or infinite."""
    TOO_LARGE = "too_large"
    """An id longer than 512 bytes, or a result the broker refuses for its size."""
    KEY_MISMATCH = "key_mismatch"
    """The Kafka key is not the id inside the value, or is not UTF-8, or is absent where it is the only id."""
    INVALID_KNOWLEDGE = "invalid_knowledge"
    """The model's answer stayed invalid after its retries."""
    QUARANTINED_OUTPUT = "quarantined_output"
    """The model's answer obeys, echoes or links where it should describe: nobody shall read it as knowledge."""
    LLM_REJECTED = "llm_rejected"
    """The LLM endpoint refuses this very request (too long, unsupported)."""


class FatalError(Exception):
    """Raised by Freshet itself where going on would lose or spoil data; the worker exits with 1."""


class TooManyDeadLetters(FatalError):
    """A partition gives nothing but dead letters: more likely a wrong deployment than wrong data."""


class DeliveryFailed(Exception):
    """The broker did not confirm a record in time; sending it again is safe."""


class RecordTooLarge(Exception):
    """The broker refuses a record for its size; sending it again can not help."""

    reason = Reason.TOO_LARGE


FAMILIES: dict[str, Family] = {
    # Poison: the record's own fault.
    "schemas.codec.DecodeError": Family.POISON,
    "processors.validate.ContractViolation": Family.POISON,
    "processors.items.ask.InvalidKnowledge": Family.POISON,
    "models.llm.client.LLMRejected": Family.POISON,
    "freshet.header.BlobError": Family.POISON,  # a vector whose bytes are not what its `dims` says
    "streams.errors.RecordTooLarge": Family.POISON,
    # Transient: a dependency's fault, and dependencies come back.
    "schemas.registry.RegistryUnavailable": Family.TRANSIENT,
    "models.llm.client.LLMUnavailable": Family.TRANSIENT,
    "streams.errors.DeliveryFailed": Family.TRANSIENT,
    "redis.exceptions.ConnectionError": Family.TRANSIENT,
    "redis.exceptions.TimeoutError": Family.TRANSIENT,
    "redis.exceptions.BusyLoadingError": Family.TRANSIENT,
    "redis.exceptions.TryAgainError": Family.TRANSIENT,
    "redis.exceptions.ReadOnlyError": Family.TRANSIENT,  # a replica for the seconds of a failover
    "redis.exceptions.OutOfMemoryError": Family.TRANSIENT,  # an operator can free memory; dropping can not be undone
    "redis.exceptions.MasterDownError": Family.TRANSIENT,
    "redis.exceptions.AskError": Family.TRANSIENT,  # MovedError too: buckets on their way to another node
    "redis.exceptions.ClusterError": Family.TRANSIENT,
    "redis.exceptions.RedisClusterException": Family.TRANSIENT,  # no node answers with the map, or none has a slot
    "builtins.ConnectionError": Family.TRANSIENT,
    "builtins.TimeoutError": Family.TRANSIENT,
    # Fatal: named because a base class above would call them transient.
    "redis.exceptions.AuthenticationError": Family.FATAL,
    "redis.exceptions.AuthorizationError": Family.FATAL,
    "redis.exceptions.MaxConnectionsError": Family.FATAL,  # the pool of this process, not the server
    "schemas.registry.RegistryRejected": Family.FATAL,
    "store.feature_writer.ShapeMismatch": Family.FATAL,
    "models.llm.client.LLMForbidden": Family.FATAL,
    "models.llm.vllm_engine.EngineError": Family.FATAL,
    "streams.errors.FatalError": Family.FATAL,
}

_DEFAULT_REASONS: dict[str, Reason] = {
    "processors.items.ask.QuarantinedKnowledge": Reason.QUARANTINED_OUTPUT,
    "processors.items.ask.InvalidKnowledge": Reason.INVALID_KNOWLEDGE,
    "models.llm.client.LLMRejected": Reason.LLM_REJECTED,
    "freshet.header.BlobError": Reason.BAD_PAYLOAD,
}


def _names(error: BaseException) -> list[str]:
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]


def family(error: BaseException) -> Family:
    """Decide what `error` means; the most derived class named in the table wins.

    An exception nobody has named is a bug, and a bug is fatal: stopping loses nothing, guessing may.
    A `confluent_kafka.KafkaException` carries its own verdict.
    """
    for name in _names(error):
        if name in FAMILIES:
            return FAMILIES[name]
        if name == "cimpl.KafkaException":
            return _kafka_family(error)
    return Family.FATAL


def _kafka_family(error: BaseException) -> Family:
    cause = error.args[0] if error.args else None
    if cause is None or cause.fatal():
        return Family.FATAL
    return Family.TRANSIENT if kafka_retriable(cause) else Family.FATAL


def kafka_retriable(error: Any) -> bool:
    """Whether a `confluent_kafka.KafkaError` passes by itself.

    librdkafka flags so only what its transactional producer gets; elsewhere the code decides.
    """
    return bool(error.retriable()) or error.code() in _RETRIED_KAFKA_CODES


_RETRIED_KAFKA_CODES = frozenset(
    {
        # librdkafka's own: the broker is away.
        -195,  # _TRANSPORT
        -193,  # _RESOLVE
        -192,  # _MSG_TIMED_OUT
        -187,  # _ALL_BROKERS_DOWN
        -185,  # _TIMED_OUT
        -184,  # _QUEUE_FULL
        -180,  # _WAIT_COORD
        # The broker's, retriable by Kafka's protocol: leaders and coordinators move, and a new topic has none at first.
        5,  # LEADER_NOT_AVAILABLE
        6,  # NOT_LEADER_FOR_PARTITION
        7,  # REQUEST_TIMED_OUT
        9,  # REPLICA_NOT_AVAILABLE
        13,  # NETWORK_EXCEPTION
        14,  # COORDINATOR_LOAD_IN_PROGRESS
        15,  # COORDINATOR_NOT_AVAILABLE
        16,  # NOT_COORDINATOR
        19,  # NOT_ENOUGH_REPLICAS
        20,  # NOT_ENOUGH_REPLICAS_AFTER_APPEND
        41,  # NOT_CONTROLLER
        56,  # KAFKA_STORAGE_ERROR
        74,  # FENCED_LEADER_EPOCH
        75,  # UNKNOWN_LEADER_EPOCH
        78,  # OFFSET_NOT_AVAILABLE
        88,  # UNSTABLE_OFFSET_COMMIT
        89,  # THROTTLING_QUOTA_EXCEEDED
    }
)


KAFKA_REFUSALS = frozenset(
    {
        -169,  # _AUTHENTICATION
        29,  # TOPIC_AUTHORIZATION_FAILED
        30,  # GROUP_AUTHORIZATION_FAILED
        31,  # CLUSTER_AUTHORIZATION_FAILED
        58,  # SASL_AUTHENTICATION_FAILED
    }
)
"""What a broker answers to a client it refuses; librdkafka reports it to a callback alone, and goes on trying."""


def reason(error: BaseException) -> Reason:
    """The dead-letter reason of a poison error: its own `reason`, else the one of its class."""
    own = getattr(error, "reason", None)
    if own is not None:
        return Reason(str(own))
    for name in _names(error):
        if name in _DEFAULT_REASONS:
            return _DEFAULT_REASONS[name]
    raise TypeError(f"{type(error).__qualname__} has no dead-letter reason") from error
