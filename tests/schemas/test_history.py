"""The kept schema versions: fingerprints as the specification wants them, and FULL_TRANSITIVE evolution."""

from __future__ import annotations

import io
import json
from itertools import permutations
from typing import Any

import avro.schema
import fastavro
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

from freshet.records import Item, UserEvent
from schemas.codec import (
    KINDS,
    SINGLE_OBJECT_HEADER,
    Codec,
    DecodeError,
    KeptSchema,
    fingerprint,
    kept_schemas,
    schema_json,
    writer_schema,
)
from schemas.history import canonical_fingerprint, crc64

# What a released version means on the wire never changes: add a file `<record>.v<N+1>.avsc` and a line here instead.
RELEASED = {
    ("Item", 1): "f41a7e9462c1d069",
    ("UserEvent", 1): "51eb8c27f23202d3",
    ("ItemKnowledge", 1): "e961a4034b1f5e09",
    ("ItemFeatures", 1): "06922c868faca6de",
    ("UserFeatures", 1): "5a5a6bef2fa8159c",
    ("DeadLetter", 1): "b1428ca378e583b4",
    ("ItemKnowledge", 2): "42176429436cee83",
    ("DeadLetter", 2): "a36cd57123cd899a",
    ("UserFeatures", 2): "92424fd999b0f62a",
    ("Erasure", 1): "82f4614fdfeea1df",
}


def compatible(reader: Any, writer: Any) -> bool:
    """Whether `reader` (JSON) reads everything that `writer` wrote, says Apache's own checker."""
    schemas = avro.schema.parse(json.dumps(reader)), avro.schema.parse(json.dumps(writer))
    answer = ReaderWriterCompatibilityChecker().get_compatibility(*schemas)
    return answer.compatibility is SchemaCompatibilityType.compatible


def full_transitive(versions: list[Any]) -> bool:
    """Whether every version reads every other, older or newer."""
    return all(compatible(reader, writer) for reader, writer in permutations(versions, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_every_version_reads_every_other(kind: Any) -> None:
    """Catches a new version that a replay from the beginning, or a worker not yet updated, cannot read."""
    versions = [json.loads(kept.text) for kept in kept_schemas() if kept.kind is kind]
    assert versions
    assert full_transitive(versions)


def changed(**change: Any) -> Any:
    """The Item schema with a field added (`add`), dropped (`drop`) or retyped (`retype`)."""
    schema = json.loads(schema_json(Item))
    fields = [field for field in schema["fields"] if field["name"] != change.get("drop")]
    for field in fields:
        if field["name"] == change.get("retype"):
            field["type"] = change["to"]
    schema["fields"] = fields + ([change["add"]] if "add" in change else [])
    return schema


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({"add": {"name": "colour", "type": "string", "default": ""}}, True),
        ({"drop": "brand"}, True),
        ({"add": {"name": "colour", "type": "string"}}, False),
        ({"drop": "title"}, False),
        ({"retype": "price", "to": "string"}, False),
        ({"retype": "price", "to": ["null", "double", "string"]}, False),
        ({"retype": "event_time", "to": "double"}, False),
    ],
)
def test_the_check_knows_good_from_bad(change: Any, fits: bool) -> None:
    """Catches a checker that calls everything compatible, as with one version a kind it must."""
    assert full_transitive([json.loads(schema_json(Item)), changed(**change)]) is fits


def test_released_versions_stay_as_they_were() -> None:
    """Catches an edit of a released schema: records of the log name its fingerprint for ever."""
    held = {(kept.kind.__name__, kept.version): f"{kept.fingerprint:016x}" for kept in kept_schemas()}
    assert held == RELEASED


def test_crc64_is_that_of_the_specification() -> None:
    """Catches a fingerprint of our own; the values are those of Avro's Java tests."""
    assert crc64(b'"null"') == 0x63DD24E7CC258F8A
    assert crc64(b'"int"') == 0x7275D51A3F395C8F
    assert crc64(b'"long"') == 0xD054E14493F41DB7


def test_fingerprint_ignores_what_does_not_change_bytes() -> None:
    """Catches a producer's harmless extras (docs, logical types, Java string hints) making its records unknown."""
    schema = json.loads(schema_json(UserEvent))
    schema["doc"] = "another text"
    schema["fields"][0]["type"] = {"type": "string", "avro.java.string": "String"}
    schema["fields"][3]["type"] = "long"
    assert canonical_fingerprint(schema) == fingerprint(UserEvent)


def test_fingerprint_is_apaches() -> None:
    """Catches a canonical form on which we agree with nobody."""
    for kept in kept_schemas():
        # Apache's Python (1.12) leaves {"type": "long"} where a logical type was; the specification and Java do not.
        schema = json.loads(kept.text.replace('{"type": "long", "logicalType": "timestamp-millis"}', '"long"'))
        parsed = avro.schema.parse(json.dumps(schema))
        assert int.from_bytes(parsed.fingerprint(), "little") == kept.fingerprint


def test_a_past_version_is_read_as_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches old records of the log that a release with a newer schema cannot read."""
    old = changed(drop="brand", add={"name": "colour", "type": "string", "default": ""})
    past = KeptSchema(Item, 0, canonical_fingerprint(old), json.dumps(old))
    held = {kept.fingerprint: kept for kept in (*kept_schemas(), past)}
    monkeypatch.setattr("schemas.history._by_fingerprint", lambda: held)
    out = io.BytesIO(SINGLE_OBJECT_HEADER + past.fingerprint.to_bytes(8, "little"))
    out.seek(10)
    fastavro.schemaless_writer(out, old, {"item_id": "i1", "event_time": 5, "title": "Tea", "colour": "green"})
    assert Codec().decode(Item, out.getvalue()) == Item("i1", 5, "Tea")
    with pytest.raises(DecodeError, match="bad_payload: 1 bytes after"):
        Codec().decode(Item, out.getvalue() + b"x")


def test_writer_schema_finds_by_fingerprint() -> None:
    """Catches a header that decodes to another contract's schema."""
    for kept in kept_schemas():
        assert writer_schema(kept.fingerprint) == kept
    assert writer_schema(1) is None
