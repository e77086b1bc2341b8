"""All versions of the contracts: `<record>.v<N>.avsc` beside this module, their fingerprints and parsed forms.

Owns which schema versions this release knows. Must not know framings, registries or Kafka.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import fastavro
from fastavro.schema import to_parsing_canonical_form

from freshet.records import DeadLetter, Erasure, Item, ItemFeatures, ItemKnowledge, Record, UserEvent, UserFeatures

KINDS: tuple[type[Record], ...] = (Item, UserEvent, ItemKnowledge, ItemFeatures, UserFeatures, DeadLetter, Erasure)

_EMPTY_CRC = 0xC15D213AA4D7A795  # polynomial and seed of CRC-64-AVRO, from the Avro specification


@dataclasses.dataclass(frozen=True, slots=True)
class KeptSchema:
    """One version of one contract in this package; `text` is the JSON of its `.avsc` file."""

    kind: type[Record]
    version: int
    fingerprint: int
    text: str


def crc64(data: bytes) -> int:
    """CRC-64-AVRO of `data` (Rabin fingerprint, Avro specification, "Schema Fingerprints")."""
    table = _crc_table()
    value = _EMPTY_CRC
    for byte in data:
        value = (value >> 8) ^ table[(value ^ byte) & 0xFF]
    return value


@cache
def _crc_table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = (value >> 1) ^ (_EMPTY_CRC if value & 1 else 0)
        return value

    return tuple(map(entry, range(256)))


@cache
def kept_schemas() -> tuple[KeptSchema, ...]:
    """Every kept version of every contract, oldest first within a kind."""
    schemas: list[KeptSchema] = []
    folder = Path(__file__).parent
    for kind in KINDS:
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
        paths = {int(path.name.split(".v")[1].split(".")[0]): path for path in folder.glob(f"{snake}.v*.avsc")}
        for version in sorted(paths):  # by number: v10 comes after v9
            text = paths[version].read_text(encoding="utf-8")
            schemas.append(KeptSchema(kind, version, canonical_fingerprint(json.loads(text)), text))
    return tuple(schemas)


@cache
def _newest() -> Mapping[type[Record], KeptSchema]:
    return {kept.kind: kept for kept in kept_schemas()}


def schema_json(kind: type[Record]) -> str:
    """The JSON text of the newest schema of `kind`, with docs, defaults and logical types."""
    return _newest()[kind].text


def fingerprint(kind: type[Record]) -> int:
    """The CRC-64-AVRO fingerprint of the newest schema of `kind`, as an unsigned 64-bit number."""
    return _newest()[kind].fingerprint


@cache
def _by_fingerprint() -> Mapping[int, KeptSchema]:
    return {kept.fingerprint: kept for kept in kept_schemas()}


def writer_schema(fingerprint: int) -> KeptSchema | None:
    """The kept schema that a single-object header names, or None if this release does not know it."""
    return _by_fingerprint().get(fingerprint)


def plain(schema: Any) -> Any:
    """`schema` without logical types and docs: the bytes are the same."""
    # fastavro turns a timestamp-millis into a datetime, which is slow and overflows on times far in the future.
    if isinstance(schema, list):
        return [plain(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key not in ("logicalType", "doc")}
    if "type" in kept:
        kept["type"] = plain(kept["type"])
    if "fields" in kept:
        kept["fields"] = [plain(field) for field in kept["fields"]]
    for part in ("items", "values"):
        if part in kept:
            kept[part] = plain(kept[part])
    return kept


@cache
def parsed_kept(fingerprint: int) -> Any:
    """The fastavro form of a kept schema, without logical types; one object per fingerprint."""
    return fastavro.parse_schema(plain(json.loads(_by_fingerprint()[fingerprint].text)))


def parsed(kind: type[Record]) -> Any:
    """The fastavro form of the newest schema of `kind`, without logical types."""
    return parsed_kept(fingerprint(kind))


def canonical_fingerprint(schema: Any) -> int:
    """The CRC-64-AVRO fingerprint of a schema given as parsed JSON.

    Its parsing canonical form has no docs, defaults or logical types: only what decides how bytes are read remains.
    """
    return crc64(to_parsing_canonical_form(schema).encode())
