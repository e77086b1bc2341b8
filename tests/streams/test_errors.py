"""The one decider: every name in its table exists, and each family gets what it should."""

from __future__ import annotations

from importlib import import_module

import pytest
import redis
from confluent_kafka import KafkaError, KafkaException

from freshet.blob import BlobError
from models.llm.client import LLMRejected, LLMUnavailable
from processors.items.distiller import InvalidKnowledge
from processors.validate import ContractViolation
from schemas.codec import DecodeError
from streams import errors
from streams.errors import DeliveryFailed, Family, Reason, RecordTooLarge, TooManyDeadLetters, family, reason


@pytest.mark.parametrize("name", errors.FAMILIES)
def test_every_class_of_the_table_exists(name: str) -> None:
    """Catches a renamed exception, which would silently become fatal."""
    module, _, attribute = name.rpartition(".")
    kind = getattr(import_module(module), attribute)
    assert issubclass(kind, BaseException)
    assert f"{kind.__module__}.{kind.__qualname__}" == name


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DecodeError("bad_payload", "", "x"), Family.POISON),
        (ContractViolation("empty_title", "x"), Family.POISON),
        (LLMRejected("too long"), Family.POISON),
        (LLMUnavailable("busy"), Family.TRANSIENT),
        (DeliveryFailed("x"), Family.TRANSIENT),
        (redis.ConnectionError("x"), Family.TRANSIENT),
        (redis.exceptions.BusyLoadingError("x"), Family.TRANSIENT),
        (redis.AuthenticationError("x"), Family.FATAL),
        (redis.ResponseError("unknown command"), Family.FATAL),
        (ConnectionResetError(), Family.TRANSIENT),
        (TimeoutError(), Family.TRANSIENT),
        (TooManyDeadLetters("x"), Family.FATAL),
        (ZeroDivisionError(), Family.FATAL),
        (KafkaException(KafkaError(KafkaError._TRANSPORT)), Family.TRANSIENT),
        (KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN)), Family.TRANSIENT),
        (KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)), Family.FATAL),
        (KafkaException(KafkaError(KafkaError._FENCED, "fenced", True)), Family.FATAL),
        (KafkaException(), Family.FATAL),
    ],
)
def test_families(error: BaseException, expected: Family) -> None:
    """Catches a dropped record (transient taken for poison) or a crash loop (poison taken for fatal)."""
    assert family(error) is expected


def test_retried_kafka_codes_are_the_ones_they_say() -> None:
    """Catches a wrong number in the table of codes, and a moving leader that ends a worker."""
    names = (
        "_TRANSPORT",
        "_RESOLVE",
        "_MSG_TIMED_OUT",
        "_ALL_BROKERS_DOWN",
        "_TIMED_OUT",
        "_QUEUE_FULL",
        "_WAIT_COORD",
        "LEADER_NOT_AVAILABLE",
        "NOT_LEADER_FOR_PARTITION",
        "REQUEST_TIMED_OUT",
        "REPLICA_NOT_AVAILABLE",
        "NETWORK_EXCEPTION",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "COORDINATOR_NOT_AVAILABLE",
        "NOT_COORDINATOR",
        "NOT_ENOUGH_REPLICAS",
        "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
        "NOT_CONTROLLER",
        "KAFKA_STORAGE_ERROR",
        "FENCED_LEADER_EPOCH",
        "UNKNOWN_LEADER_EPOCH",
        "OFFSET_NOT_AVAILABLE",
        "UNSTABLE_OFFSET_COMMIT",
        "THROTTLING_QUOTA_EXCEEDED",
    )
    assert frozenset(getattr(KafkaError, name) for name in names) == errors._RETRIED_KAFKA_CODES


def test_reasons() -> None:
    """Catches a dead letter without a reason an operator can filter by."""
    assert reason(DecodeError("unknown_schema", "7", "x")) is Reason.UNKNOWN_SCHEMA
    assert reason(ContractViolation("future_time", "x")) is Reason.FUTURE_TIME
    assert reason(LLMRejected("x")) is Reason.LLM_REJECTED
    with pytest.raises(TypeError):
        reason(ZeroDivisionError())


def test_every_poison_class_has_a_reason() -> None:
    """Catches a poison error that crashes the lane while its dead letter is written."""
    samples = [
        DecodeError("bad_framing", "", "x"),
        ContractViolation("missing_id", "x"),
        InvalidKnowledge("x", "{"),
        LLMRejected("x"),
        BlobError("x"),
        RecordTooLarge("x"),
    ]
    names = {f"{type(error).__module__}.{type(error).__qualname__}" for error in samples}
    assert names == {name for name, kind in errors.FAMILIES.items() if kind is Family.POISON}
    assert all(isinstance(reason(error), Reason) for error in samples)
