"""The codec against Apache's own `avro` package, in both directions, and against bytes that want to hurt."""

from __future__ import annotations

import dataclasses
import io
import json
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import avro.io
import avro.schema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from freshet.records import DeadLetter, Item, ItemFeatures, ItemKnowledge, Record, UserEvent, UserFeatures
from schemas.codec import KINDS, SINGLE_OBJECT_HEADER, Codec, DecodeError, EncodeError, fingerprint, schema_json
from tests.support import strategies

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CODEC = Codec()
ITEM = Item("i1", 1_700_000_000_000, "Tea", category=("Food", "Drink"), attributes={"weight": "250 g"}, price=3.5)
EVENT = UserEvent("u1", "i1", "view", 1_700_000_000_000)


def apache_schema(kind: type[Record]) -> Any:
    return avro.schema.parse(schema_json(kind))


def apache_encode(record: Record) -> bytes:
    """Avro binary of `record` as Apache's package writes it."""
    out = io.BytesIO()
    schema = apache_schema(type(record))
    avro.io.DatumWriter(schema).write(apache_values(record, schema), avro.io.BinaryEncoder(out))
    return out.getvalue()


def apache_values(record: Any, schema: Any) -> dict[str, Any]:
    values = dataclasses.asdict(record)
    for field in schema.fields:
        if field.type.props.get("logicalType") == "timestamp-millis":
            values[field.name] = EPOCH + timedelta(milliseconds=values[field.name])
        elif isinstance(values[field.name], tuple):
            values[field.name] = list(values[field.name])
        elif isinstance(values[field.name], dict) and "agents" in values[field.name]:
            for name in ("agents", "examples"):
                values[field.name][name] = list(values[field.name][name])
    return values


def apache_decode(kind: type[Record], data: bytes) -> tuple[dict[str, Any], int]:
    """The values of Avro binary as Apache's package reads it, and how many bytes it took."""
    stream = io.BytesIO(data)
    values = avro.io.DatumReader(apache_schema(kind)).read(avro.io.BinaryDecoder(stream))
    return values, stream.tell()


@given(strategies.records)
@example(ITEM)
@example(Item("", 0, "", category=("",), attributes={"": ""}, price=float("inf")))
def test_writes_the_bytes_that_apache_writes(record: Record) -> None:
    """Catches any byte on which another Avro implementation disagrees."""
    data = CODEC.encode(record)
    assert data[:10] == SINGLE_OBJECT_HEADER + fingerprint(type(record)).to_bytes(8, "little")
    assert data[10:] == apache_encode(record)


@given(strategies.records)
def test_apache_reads_what_it_writes(record: Record) -> None:
    """Catches a record that a platform's own consumer cannot read."""
    data = CODEC.encode(record)[10:]
    values, taken = apache_decode(type(record), data)
    assert taken == len(data)
    assert values == apache_values(record, apache_schema(type(record)))


@given(strategies.records)
def test_reads_what_apache_writes(record: Record) -> None:
    """Catches a loss between bytes and dataclass: order, type (tuple, not list), defaults, null."""
    data = SINGLE_OBJECT_HEADER + fingerprint(type(record)).to_bytes(8, "little") + apache_encode(record)
    assert CODEC.decode(type(record), data) == record


@given(st.integers(-(2**63), 2**63 - 1))
def test_times_are_plain_longs(time_ms: int) -> None:
    """Catches logical types in the codec: a year beyond 9999 must be a number for the checks, not an OverflowError."""
    event = dataclasses.replace(EVENT, event_time=time_ms)
    assert CODEC.decode(UserEvent, CODEC.encode(event)) == event


@given(st.sampled_from(KINDS), st.data())
def test_every_prefix_and_every_surplus_is_poison(kind: Any, data: Any) -> None:
    """Catches a truncated record that reads as a shorter one, and bytes after a record that nobody looks at."""
    encoded = CODEC.encode(data.draw(strategies.BY_KIND[kind]))
    cut = data.draw(st.integers(0, len(encoded) - 1))
    surplus = data.draw(st.binary(min_size=1, max_size=4))
    for hostile in (encoded[:cut], encoded + surplus):
        with pytest.raises(DecodeError) as caught:
            CODEC.decode(kind, hostile)
        assert caught.value.reason == ("bad_payload" if len(hostile) >= 10 else "bad_framing")


@given(st.sampled_from(KINDS), st.binary(max_size=60))
def test_arbitrary_payload_is_a_record_or_poison(kind: Any, payload: bytes) -> None:
    """Catches an exception of another family: the lane would stop on it, or retry for ever."""
    record = record_or_poison(kind, framed(kind, payload))
    assert record is None or CODEC.decode(kind, CODEC.encode(record)) == record or "nan" in repr(record)


def record_or_poison(kind: Any, data: bytes) -> Any:
    try:
        return CODEC.decode(kind, data)
    except DecodeError:
        return None


@given(st.sampled_from(KINDS), st.data())
def test_a_flipped_byte_is_a_record_or_poison(kind: Any, data: Any) -> None:
    """The same from real records, which get further into the reader than noise does."""
    encoded = bytearray(CODEC.encode(data.draw(strategies.BY_KIND[kind])))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    record = record_or_poison(kind, bytes(encoded))
    assert record is None or isinstance(record, kind)


def framed(kind: type[Record], payload: bytes) -> bytes:
    return SINGLE_OBJECT_HEADER + fingerprint(kind).to_bytes(8, "little") + payload


HUGE = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (Item, b"", "bad_framing"),
        (Item, b"\xc3", "bad_framing"),
        (Item, SINGLE_OBJECT_HEADER + b"\x00" * 7, "bad_framing"),
        (Item, b"\x00\x00\x00\x00", "bad_framing"),
        (Item, b'{"item_id": "a"}', "bad_framing"),
        (Item, SINGLE_OBJECT_HEADER + b"\x11" * 8 + b"payload", "unknown_schema"),
        (Item, CODEC.encode(EVENT), "unknown_schema"),
        (Item, b"\x00\x00\x00\x00\x01payload", "unknown_schema"),
        (Item, framed(Item, b""), "bad_payload"),
        (Item, framed(Item, b"\x04\xff\xfe" + b"\x00" * 10), "bad_payload"),
        (Item, framed(Item, HUGE + b"\x00" * 20), "bad_payload"),
        (Item, framed(Item, b"\x01" + b"\x00" * 20), "bad_payload"),
        (Item, framed(Item, b"\x02a\x00\x02t\x00\x00" + HUGE + b"\x00" * 20), "bad_payload"),
        (Item, framed(Item, b"\x02a\x00\x02t\x00\x00\x00" + HUGE + b"\x00" * 20), "bad_payload"),
        (Item, framed(Item, b"\x02a\x00\x02t\x00\x00\x00\x00\x04" + b"\x00" * 8), "bad_payload"),
        (Item, framed(Item, b"\x80" * 30), "bad_payload"),
        (ItemFeatures, framed(ItemFeatures, b"\x02a\x02v\x80\x80\x80\x80\x80\x01" + b"\x00" * 9), "bad_payload"),
    ],
    ids=[
        "empty",
        "half a marker",
        "no whole fingerprint",
        "no whole id",
        "json",
        "unknown fingerprint",
        "another contract",
        "registry id without a registry",
        "no payload",
        "invalid utf-8",
        "string of 2^62 bytes",
        "string of -1 bytes",
        "array of 2^62 entries",
        "map of 2^62 entries",
        "union branch 2 of 2",
        "endless number",
        "int of 33 bits",
    ],
)
def test_hostile_bytes_are_poison_with_a_reason(kind: Any, data: bytes, reason: str) -> None:
    """Catches a dead letter under the wrong reason, a crash, or memory taken because a length said so."""
    with pytest.raises(DecodeError) as caught:
        CODEC.decode(kind, data)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"{reason}: ")


def test_block_sizes_and_split_blocks_are_read() -> None:
    """Catches strictness where the specification is not strict: Java writes arrays in sized blocks."""
    head = b"\x02a" + b"\x0a" + b"\x02t" + b"\x00\x00"
    sized = b"\x01\x04\x02x" + b"\x02\x02y" + b"\x00"  # one entry in 2 bytes, then one entry, then the end
    item = CODEC.decode(Item, framed(Item, head + sized + b"\x00" + b"\x00"))
    assert item == Item("a", 5, "t", category=("x", "y"))


@pytest.mark.parametrize(
    "record",
    [
        dataclasses.replace(ITEM, title=None),
        dataclasses.replace(ITEM, title="\ud800"),
        dataclasses.replace(ITEM, category=("a", 3)),
        dataclasses.replace(ITEM, price="3.50"),
        dataclasses.replace(EVENT, event_time=2**63),
        ItemFeatures("i", "v", 1, 0, 0, 2**31, b""),
        UserFeatures("u", "v", 1, 0, 0, 8, b"", b"", behaviors=("i1",)),
    ],
)
def test_a_value_that_does_not_fit_is_not_written(record: Record) -> None:
    """Catches bytes that no reader, or only ours, can read."""
    with pytest.raises(EncodeError):
        CODEC.encode(record)


def test_infinite_numbers_and_float32_survive() -> None:
    """Catches a float that is widened or rounded twice."""
    for value in (float("inf"), -0.0, 5e-324, 1.7976931348623157e308):
        decoded = CODEC.decode(Item, CODEC.encode(dataclasses.replace(ITEM, price=value)))
        assert struct.pack("<d", decoded.price or 0.0) == struct.pack("<d", value) or value == 0


def test_schema_files_are_the_records_field_for_field() -> None:
    """Catches a field that stands in the contract and not in the dataclass, or in another order."""
    for kind in (Item, UserEvent, ItemKnowledge, ItemFeatures, UserFeatures, DeadLetter):
        named = [field["name"] for field in json.loads(schema_json(kind))["fields"]]
        assert named == [field.name for field in dataclasses.fields(kind)]
