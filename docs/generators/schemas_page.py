"""`docs/reference/schemas.md`: the Avro contracts, from the kept `.avsc` files.

Owns the form of the page. Fields, types, defaults and what they mean are the files' own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from schemas.history import KeptSchema, kept_schemas

PAGE = Path(__file__).parents[1] / "reference" / "schemas.md"


def page() -> str:
    """The page, whole."""
    kinds = [list(group) for _, group in groupby(kept_schemas(), key=lambda kept: kept.kind.__name__)]
    contents = [
        f"| [{kept[-1].kind.__name__}](#{_anchor(kept[-1])}) | {len(kept)} | {_doc(kept[-1])} |" for kept in kinds
    ]
    return f"""# Schemas

<!-- made by python -m docs.generators.schemas_page; a test compares -->

Records on every topic are Avro. The files are `schemas/RECORD.vN.avsc`; every past version is kept, and evolution is
FULL_TRANSITIVE: any kept version reads what any other wrote.

On the wire a record is framed in one of two ways, and every reader accepts both:

| framing | first bytes | used where |
|---|---|---|
| Confluent | `00`, then the schema id as four bytes, big-endian | a schema registry is configured |
| Avro single-object | `c3 01`, then the schema's CRC-64-AVRO fingerprint as eight bytes, little-endian | none is |

| record | versions | what it is |
|---|---|---|
{chr(10).join(contents)}

{chr(10).join(_section(kept) for kept in kinds)}"""


def fields(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and meaning of each field; those of an inner record after it, as `outer[].inner`."""
    for field in record["fields"]:
        name = prefix + field["name"]
        yield name, type_name(field["type"]), _default(field), field.get("doc", "")
        for inner, suffix in _inner(field["type"]):
            yield from fields(inner, f"{name}{suffix}.")


def type_name(kind: Any) -> str:
    """An Avro type in words."""
    if isinstance(kind, list):
        return " or ".join(type_name(one) for one in kind)
    if isinstance(kind, Mapping):
        match kind["type"]:
            case "array":
                return f"array of {type_name(kind['items'])}"
            case "map":
                return f"map of {type_name(kind['values'])}"
            case "record" | "enum" | "fixed":
                return str(kind["name"])
            case inner:
                logical = kind.get("logicalType")
                return f"{type_name(inner)}, {logical}" if logical else type_name(inner)
    return str(kind)


def _inner(kind: Any) -> Iterator[tuple[Mapping[str, Any], str]]:
    if isinstance(kind, list):
        for one in kind:
            yield from _inner(one)
    elif isinstance(kind, Mapping):
        if kind["type"] == "record":
            yield kind, ""
        elif kind["type"] in ("array", "map"):
            yield from (
                (inner, "[]" + suffix) for inner, suffix in _inner(kind["items" if "items" in kind else "values"])
            )


def _default(field: Mapping[str, Any]) -> str:
    return f"`{json.dumps(field['default'])}`" if "default" in field else ""


def _doc(kept: KeptSchema) -> str:
    return _text(json.loads(kept.text).get("doc", ""))


def _anchor(kept: KeptSchema) -> str:
    return kept.kind.__name__.lower()


def _section(kept: list[KeptSchema]) -> str:
    newest = json.loads(kept[-1].text)
    first_with: dict[str, int] = {}
    for one in kept:
        for name, *_ in fields(json.loads(one.text)):
            first_with.setdefault(name, one.version)
    rows = [
        f"| `{name}` | {kind} | {default} | {_text(about)} | {first_with[name]} |"
        for name, kind, default, about in fields(newest)
    ]
    versions = ", ".join(f"{one.version} (`{one.fingerprint:016x}`)" for one in kept)
    return f"""## {kept[-1].kind.__name__}

{_text(newest.get("doc", ""))}

Versions kept, with their CRC-64-AVRO fingerprints: {versions}. A field without a default is required.

| field | type | default | meaning | since version |
|---|---|---|---|---|
{chr(10).join(rows)}
"""


def _text(words: str) -> str:
    """Words as Markdown in a table cell."""
    return re.sub(r"([*<|])", r"\\\1", " ".join(words.split()))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
