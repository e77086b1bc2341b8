"""Dead letters: the untouched record, its reason, and the limit on their run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from freshet.records import DeadLetter, Header
from processors.items.distiller import InvalidKnowledge
from processors.validate import ContractViolation
from schemas.codec import Codec, DecodeError
from streams.errors import Reason, TooManyDeadLetters
from streams.kafka.dead_letter_limits import DeadLetterLimits
from streams.kafka.dead_letters import ATTEMPT_HEADER, OUTPUT_BYTES, DeadLetterProducer
from streams.kafka.record import SourceRecord
from streams.metrics import Metrics
from tests.support.fakes import NOW_MS, FakeClock
from tests.support.fakes_broker import FakeBroker, FakeProducer

CODEC = Codec()


def make(run_limit: int = 3) -> tuple[FakeBroker, DeadLetterProducer]:
    broker, limits = FakeBroker(), DeadLetterLimits(run=run_limit)
    return broker, DeadLetterProducer(FakeProducer(broker), CODEC, Metrics(), FakeClock(), limits=limits)


def record(offset: int = 7, partition: int = 3) -> SourceRecord:
    return SourceRecord("items", partition, offset, 123, b"\x00key", b"\xff\xfe", (("trace", b"1"), ("empty", None)))


def test_a_dead_letter_holds_everything_there_was() -> None:
    """Catches bytes, headers or a position lost on the way: nothing could be replayed from it."""
    broker, dead_letters = make()
    error = DecodeError("unknown_schema", "00ff", "no such schema")
    dead_letters.send(record(), Reason.UNKNOWN_SCHEMA, "item-text/read", error=error).result(0)
    [stored] = broker.logs["items.dlq"]
    assert stored.key == b"\x00key"
    got = CODEC.decode(DeadLetter, stored.value or b"")
    assert (got.topic, got.partition, got.offset, got.timestamp) == ("items", 3, 7, 123)
    assert (got.key, got.value) == (b"\x00key", b"\xff\xfe")
    assert list(got.headers) == [Header("trace", b"1"), Header("empty", None)]
    assert (got.reason, got.stage, got.attempt) == ("unknown_schema", "item-text/read", 1)
    assert (got.exception, got.schema_id, got.failed_time) == ("DecodeError", "00ff", NOW_MS)


def test_a_run_stops_the_worker_and_a_good_record_ends_the_run() -> None:
    """Catches a topic poured into its dead letters; and a limit that adds up over weeks."""
    _, dead_letters = make(run_limit=3)
    for offset in range(10):
        dead_letters.send(record(offset), Reason.BAD_FRAMING, "x/y")
        dead_letters.good("items", 3)
    for offset in range(10, 13):
        dead_letters.send(record(offset), Reason.BAD_FRAMING, "x/y")
    dead_letters.send(record(0, partition=1), Reason.BAD_FRAMING, "x/y")  # another partition, another run
    with pytest.raises(TooManyDeadLetters, match=r"items\[3\].*offset 13.*FRESHET_DEAD_LETTERS__RUN"):
        dead_letters.send(record(13), Reason.BAD_FRAMING, "x/y")


def test_long_messages_are_cut() -> None:
    """Catches a dead letter that outgrows the broker's limit because a validator quotes the record."""
    broker, dead_letters = make()
    dead_letters.send(record(), Reason.EMPTY_TITLE, "x/y", error=ContractViolation("empty_title", "x" * 10**6))
    [value] = broker.values("items.dlq")
    assert len(value or b"") < 2_000


@pytest.mark.parametrize("raw", ["{", "绿" * 10**5, "x" * 10**6, "lone \ud800 surrogate"])
def test_a_models_raw_answer_is_kept_within_bounds(raw: str) -> None:
    """Catches an answer nobody can look at afterwards, one that no reader decodes, or one that outgrows the topic."""
    broker, dead_letters = make()
    dead_letters.send(record(), Reason.INVALID_KNOWLEDGE, "x/y", error=InvalidKnowledge("no", raw)).result(0)
    [value] = broker.values("items.dlq")
    output = CODEC.decode(DeadLetter, value or b"").output
    assert output.startswith(raw[:1])
    assert OUTPUT_BYTES - 4 < len(output.encode()) <= OUTPUT_BYTES or len(output) == len(raw)


def test_a_record_sent_again_counts_its_attempts() -> None:
    """Catches a record that goes round for ever, each time as if it were the first."""
    broker, dead_letters = make()
    again = replace(record(), headers=((ATTEMPT_HEADER, b"4"),))
    dead_letters.send(again, Reason.EMPTY_TITLE, "x/y").result(0)
    dead_letters.send(replace(again, offset=8, headers=((ATTEMPT_HEADER, b"-x"),)), Reason.EMPTY_TITLE, "x/y").result(0)
    assert [CODEC.decode(DeadLetter, value or b"").attempt for value in broker.values("items.dlq")] == [5, 1]
