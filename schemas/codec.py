"""Encodes records as Avro bytes and decodes them, strictly, in two framings.

Owns the framings and the difference between poison (`DecodeError`) and a registry that is down (`RegistryUnavailable`).
Must not know Kafka: a null value is a deletion, which the caller handles before it decodes.

On the wire: `C3 01`, the writer schema's CRC-64-AVRO fingerprint (8 bytes, little-endian) and the Avro binary (single-
object encoding), or `00`, the registry's schema id (4 bytes, big-endian) and the Avro binary (Confluent framing).
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar

import fastavro
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException, UnknownType

from freshet import records
from freshet.records import DeadLetter, Erasure, Item, ItemFeatures, ItemKnowledge, Record, UserEvent, UserFeatures
from schemas.history import (
    KINDS,
    KeptSchema,
    canonical_fingerprint,
    fingerprint,
    kept_schemas,
    parsed,
    parsed_kept,
    plain,
    schema_json,
    writer_schema,
)
from schemas.registry import RegistryClient, RegistryRejected, RegistryUnavailable, UnknownSchemaId

__all__ = [
    "KINDS",
    "SINGLE_OBJECT_HEADER",
    "Codec",
    "DecodeError",
    "EncodeError",
    "KeptSchema",
    "Reason",
    "RegistryClient",
    "RegistryRejected",
    "RegistryUnavailable",
    "fingerprint",
    "kept_schemas",
    "schema_json",
    "writer_schema",
]

SINGLE_OBJECT_HEADER = b"\xc3\x01"
CONFLUENT_HEADER = b"\x00"

Reason = Literal["bad_framing", "unknown_schema", "bad_payload"]
R = TypeVar("R", Item, UserEvent, ItemKnowledge, ItemFeatures, UserFeatures, DeadLetter, Erasure)

_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1


class DecodeError(ValueError):
    """These bytes are not a record of the wanted kind and never will be: poison.

    `reason` names the part that is wrong; `schema_id` is the registry id (decimal) or the fingerprint (16 hex digits)
    in the header, "" if there is none.
    """

    def __init__(self, reason: Reason, schema_id: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason: Reason = reason
        self.schema_id = schema_id
        self.message = message


class EncodeError(ValueError):
    """The record holds a value that its schema cannot hold: a bug in the code that made it."""


class Codec:
    """Encodes and decodes the seven contracts; thread-safe.

    Writes Confluent framing under subject `<topic>-value` with a `registry`, single-object encoding without. Reads
    both, and every kept past version, always resolved to the newest.
    """

    def __init__(self, registry: RegistryClient | None = None) -> None:
        self._registry = registry
        self._headers: dict[tuple[type[Record], str], bytes] = {}
        self._registry_schemas: dict[tuple[type[Record], int], Any] = {}

    def encode(self, record: Record, topic: str = "") -> bytes:
        """The framed bytes of `record`; `topic` names the registry subject, and is required only with a registry.

        Raises `EncodeError`, and with a registry, until the id is known, `RegistryUnavailable` or `RegistryRejected`.
        """
        kind = type(record)
        # Cached, as with a registry each new header costs an HTTP call.
        header = self._headers.get((kind, topic)) or self._header(kind, topic)
        out = io.BytesIO()
        out.write(header)
        try:
            fastavro.schemaless_writer(out, parsed(kind), _shapes()[kind].to_values(record))
        except _UNFIT as error:
            raise EncodeError(f"a {kind.__name__} does not fit its schema: {error}") from error
        return out.getvalue()

    def decode(self, kind: type[R], data: bytes) -> R:
        """The record in `data`, which must hold one `kind` and nothing else.

        Raises `DecodeError` (poison), or with Confluent framing `RegistryUnavailable` (transient), `RegistryRejected`.
        """
        writer, schema_id, start = self.writer(kind, data)
        reader = parsed(kind)
        stream = io.BytesIO(data)
        stream.seek(start)
        try:
            # Without a reader schema fastavro skips resolution, which the newest schema does not need.
            values: Any = fastavro.schemaless_reader(stream, writer, None if writer is reader else reader)
            record: R = _shapes()[kind].to_record(values)
        except SchemaResolutionError as error:
            raise DecodeError("unknown_schema", schema_id, f"cannot be read as {kind.__name__}: {error}") from error
        except _BROKEN as error:
            message = str(error) or "the bytes end too early"  # EOFError has no text
            raise DecodeError("bad_payload", schema_id, f"not a {kind.__name__}: {message}") from error
        if stream.tell() != len(data):  # Avro has no length of its own: a wrong schema may end early without an error
            raise DecodeError("bad_payload", schema_id, f"{len(data) - stream.tell()} bytes after the record")
        return record

    def _header(self, kind: type[Record], topic: str) -> bytes:
        if self._registry is None:
            header = SINGLE_OBJECT_HEADER + fingerprint(kind).to_bytes(8, "little")
        elif topic:
            schema_id = self._registry.register(f"{topic}-value", schema_json(kind))
            header = CONFLUENT_HEADER + schema_id.to_bytes(4, "big")
        else:
            raise ValueError("with a registry, encode() needs the topic: the subject is <topic>-value")
        self._headers[kind, topic] = header
        return header

    def writer(self, kind: type[Record], data: bytes) -> tuple[Any, str, int]:
        """Parse the framing of `data`: the parsed writer schema, its id as text, the offset of the Avro binary.

        All records of one schema get the same object, made by `fastavro.parse_schema` without logical types. Raises as
        `decode` does, but never `bad_payload`.
        """
        if data[:2] == SINGLE_OBJECT_HEADER and len(data) >= 10:
            number = int.from_bytes(data[2:10], "little")
            kept = writer_schema(number)
            if kept is None or kept.kind is not kind:
                owner = "unknown here" if kept is None else f"{kept.kind.__name__}'s, wanted {kind.__name__}'s"
                raise DecodeError("unknown_schema", f"{number:016x}", f"fingerprint {number:016x} is {owner}")
            return parsed_kept(number), f"{number:016x}", 10
        if data[:1] == CONFLUENT_HEADER and len(data) >= 5:
            schema_id = int.from_bytes(data[1:5], "big")
            return self._registry_schema(kind, schema_id), str(schema_id), 5
        shown = data[:10].hex(" ") or "no bytes"
        raise DecodeError("bad_framing", "", f"starts with {shown}, wanted c3 01 + fingerprint or 00 + schema id")

    def _registry_schema(self, kind: type[Record], schema_id: int) -> Any:
        known = self._registry_schemas.get((kind, schema_id))
        if known is not None:
            return known
        if self._registry is None:
            raise DecodeError(
                "unknown_schema", str(schema_id), "the bytes name a registry's schema, but no registry is configured"
            )
        try:
            schema = json.loads(self._registry.schema(schema_id))
            kept = writer_schema(canonical_fingerprint(schema))
            # A schema we keep ourselves is the same object under either framing, and cached for good.
            form: Any = parsed_kept(kept.fingerprint) if kept else fastavro.parse_schema(plain(schema))
        except UnknownSchemaId as error:
            raise DecodeError("unknown_schema", str(schema_id), str(error)) from error
        except (ValueError, TypeError, KeyError, RecursionError, SchemaParseException, UnknownType) as error:
            raise DecodeError("unknown_schema", str(schema_id), f"not a readable Avro schema: {error}") from error
        name = form.get("name", "") if isinstance(form, dict) else ""
        if name.rpartition(".")[2] != kind.__name__:  # a platform may put our records into a namespace of its own
            message = f"schema {schema_id} is {name or 'no record'}, wanted {kind.__name__}"
            raise DecodeError("unknown_schema", str(schema_id), message)
        self._registry_schemas[kind, schema_id] = form
        return form


# What fastavro raises for bytes that do not match the schema, and for values that the schema cannot hold.
_BROKEN = (EOFError, ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, RecursionError)
_UNFIT = (ValueError, TypeError, OverflowError, AttributeError)


@dataclasses.dataclass(frozen=True, slots=True)
class _Shape:
    """Converts between one Avro record type and its dataclass; most fields pass through untouched."""

    record: Callable[..., Any]
    names: tuple[str, ...]
    inward: tuple[tuple[str, Callable[[Any], Any]], ...]
    outward: tuple[tuple[str, Callable[[Any], Any]], ...]

    def to_record(self, values: dict[str, Any]) -> Any:
        for name, convert in self.inward:
            values[name] = convert(values[name])
        return self.record(**values)

    def to_values(self, record: Any) -> dict[str, Any]:
        values = {name: getattr(record, name) for name in self.names}
        for name, convert in self.outward:
            values[name] = convert(values[name])
        return values


@cache
def _shapes() -> Mapping[type[Record], _Shape]:
    return {kind: _record_shape(json.loads(schema_json(kind))) for kind in KINDS}


def _record_shape(schema: Mapping[str, Any]) -> _Shape:
    inward: list[tuple[str, Callable[[Any], Any]]] = []
    outward: list[tuple[str, Callable[[Any], Any]]] = []
    for field in schema["fields"]:
        name, kind = field["name"], field["type"]
        if kind == "int":
            inward.append((name, _checked_int))
            outward.append((name, _checked_int))
        elif isinstance(kind, dict) and kind["type"] == "record":
            shape = _record_shape(kind)
            inward.append((name, shape.to_record))
            outward.append((name, shape.to_values))
        elif isinstance(kind, dict) and kind["type"] == "array":
            items = kind["items"]
            nested = _record_shape(items) if isinstance(items, dict) else None
            inward.append((name, _each(nested.to_record) if nested else tuple))
            if nested:
                outward.append((name, _each(nested.to_values)))
    names = tuple(field["name"] for field in schema["fields"])
    return _Shape(getattr(records, schema["name"]), names, tuple(inward), tuple(outward))


def _each(convert: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    return lambda values: tuple(map(convert, values))


def _checked_int(value: int) -> int:
    # fastavro reads and writes an Avro int as 64 bits; Java and Apache's C++ refuse more than 32.
    if not _INT_MIN <= value <= _INT_MAX:
        raise ValueError(f"{value} is not a 32-bit int")
    return value
