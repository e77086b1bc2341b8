from __future__ import annotations

import io
import json
import random

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freshet.records import UserEvent
from schemas.codec import Codec, DecodeError, RegistryUnavailable, schema_json
from schemas.columns import EVENT_SCHEMA, EventColumns

CODEC = Codec()
HEADER = CODEC.encode(UserEvent("u", "i", "view", 0))[:10]

events = st.builds(
    UserEvent,
    user_id=st.text(max_size=80),
    item_id=st.text(max_size=80),
    event_type=st.text(max_size=9),
    event_time=st.integers(-(2**63), 2**63 - 1),
    event_id=st.text(max_size=9),
    value=st.none() | st.floats(allow_nan=False),
)


def some(count):
    return [
        UserEvent(f"u{n}", f"ïtem{n}", "view", 10**12 + n, f"e{n}" if n % 2 else "", n / 7 if n % 3 else None)
        for n in range(count)
    ]


def rows(decoded):
    return [UserEvent(**row) for row in decoded.columns.to_pylist()]


def one_by_one(values):
    good, errors = [], []
    for row, value in enumerate(values):
        try:
            good.append((row, CODEC.decode(UserEvent, value)))
        except DecodeError as error:
            errors.append((row, error.reason))
    return good, errors


def agrees_with_the_codec(values):
    decoded = EventColumns(CODEC).decode(values)
    good, errors = one_by_one(values)
    assert list(zip(decoded.rows.tolist(), rows(decoded), strict=True)) == good
    assert [(row, error.reason) for row, error in decoded.errors] == errors
    assert decoded.columns.schema == EVENT_SCHEMA


@settings(max_examples=60, deadline=None)
@given(st.lists(events, max_size=30))
def test_columns_hold_what_was_encoded(sent):
    # Catches a length, zigzag or null rule that differs from Avro's: such a batch would always take the slow path.
    values = [CODEC.encode(event) for event in sent]
    decoded = EventColumns(CODEC).decode(values)
    assert rows(decoded) == sent
    assert EventColumns(CODEC)._fast([value[10:] for value in values], schema_json(UserEvent)) is not None


def test_an_empty_batch_has_no_rows():
    agrees_with_the_codec([])


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc3\x01", id="half a header"),
        pytest.param(b"\xc3\x01" + bytes(8) + b"\2u", id="unknown fingerprint"),
        pytest.param(b"\0\0\0\0\7\2u", id="a registry's id without a registry"),
        pytest.param(HEADER, id="no body"),
        pytest.param(CODEC.encode(some(1)[0]) + b"\0", id="trailing byte"),
        pytest.param(CODEC.encode(some(1)[0]).replace(b"view", b"\xff\xfe\xff\xfe"), id="invalid UTF-8"),
        pytest.param(HEADER + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", id="a length of minus 2**63"),
        pytest.param(CODEC.encode(some(1)[0])[:-1] + b"\6", id="a union branch that is not there"),
    ],
)
@pytest.mark.parametrize("place", [0, 150, 299])
def test_one_bad_record_is_found_and_the_rest_is_kept(poison, place):
    # Catches a whole batch failed for one record, and a record that only the strict codec refuses.
    values = [CODEC.encode(event) for event in some(300)]
    values[place] = poison
    agrees_with_the_codec(values)
    assert len(EventColumns(CODEC).decode(values).rows) == 299


def test_random_damage_is_judged_as_by_the_codec():
    # Catches pyruhvro reading damaged bytes as a record that the codec refuses, or as another record.
    rng = random.Random(5)
    for _ in range(40):
        values = [CODEC.encode(event) for event in some(100)]
        for _ in range(rng.choice([1, 1, 3, 30])):
            row = rng.randrange(100)
            if not values[row]:
                continue
            damaged = bytearray(values[row])
            for _ in range(rng.randrange(1, 4)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            values[row] = bytes(damaged[: rng.choice([None, rng.randrange(len(damaged))])])
        agrees_with_the_codec(values)


def test_old_and_new_writers_share_a_batch_in_its_order():
    # Catches rows that change places when a batch is decoded group by group.
    older = json.loads(schema_json(UserEvent))
    older["fields"] = [f for f in older["fields"] if f["name"] not in ("value", "event_id")]
    newer = json.loads(schema_json(UserEvent))
    newer["fields"].append({"name": "session", "type": ["null", "string"], "default": None})
    registry = StubRegistry({1: older, 2: newer})
    codec = Codec(registry)
    values, sent = [], some(600)
    for n, event in enumerate(sent):
        values.append(framed(older, 1, event) if n % 3 == 0 else framed(newer, 2, event))
        if n % 3 == 2:
            values[-1] = CODEC.encode(event)
    decoded = EventColumns(codec).decode(values)
    assert decoded.errors == []
    assert decoded.rows.tolist() == list(range(600))
    assert rows(decoded) == [
        UserEvent(e.user_id, e.item_id, e.event_type, e.event_time) if n % 3 == 0 else e for n, e in enumerate(sent)
    ]
    assert registry.asked == 2


def test_a_registry_that_is_away_is_not_poison():
    class Away:
        def schema(self, schema_id):
            raise RegistryUnavailable("away")

    with pytest.raises(RegistryUnavailable):
        EventColumns(Codec(Away())).decode([b"\0\0\0\0\1\2u"])


def test_the_fast_path_takes_the_whole_batch():
    # Catches a silent fall back to one record at a time (20 times slower).
    class Spy(Codec):
        def decode(self, kind, data):
            raise AssertionError("one by one")

    values = [CODEC.encode(event) for event in some(5_000)]
    decoded = EventColumns(Spy()).decode(values)
    assert np.array_equal(decoded.rows, np.arange(5_000))


def framed(schema, schema_id, event):
    out = io.BytesIO()
    record = {name: getattr(event, name) for name in EVENT_SCHEMA.names} | {"session": "s"}
    fields = {f["name"] for f in schema["fields"]}
    fastavro.schemaless_writer(out, schema, {name: value for name, value in record.items() if name in fields})
    return b"\0" + schema_id.to_bytes(4, "big") + out.getvalue()


class StubRegistry:
    def __init__(self, schemas):
        self.schemas = schemas
        self.asked = 0

    def schema(self, schema_id):
        self.asked += 1
        return json.dumps(self.schemas[schema_id])
