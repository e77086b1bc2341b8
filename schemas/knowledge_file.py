"""Files of knowledge: JSON lines that a later run continues, the failures beside them, and the records as parquet.

Owns which line of an item counts, when a failure is resolved, and the parquet columns. Must not know how a record is
made, nor what makes an error a failure.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from freshet.records import Claim, Item, ItemKnowledge, Provenance
from schemas.files import FileError
from schemas.json_lines import Lines, LinesError, read_lines

_ROW_GROUP = 5_000  # records held in memory while writing
_TEXTS = pa.list_(pa.string())
_CLAIM = pa.struct(
    [
        ("kind", pa.string()),
        ("name", pa.string()),
        ("value", pa.string()),
        ("quote", pa.string()),
        ("inferred", pa.bool_()),
        ("normalized", pa.string()),
    ]
)
_PROVENANCE = pa.struct(
    [
        ("agents", _TEXTS),
        ("prompt_fingerprints", pa.map_(pa.string(), pa.string())),
        ("model", pa.string()),
        ("model_revision", pa.string()),
        ("tokens_in", pa.int64()),
        ("tokens_out", pa.int64()),
        ("calls", pa.int64()),
        ("latency_seconds", pa.float64()),
        ("origin", pa.string()),
        ("profile", pa.string()),
        ("examples", _TEXTS),
        ("shared_from", pa.string()),
    ]
)
KNOWLEDGE_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("event_time", pa.int64()),
        ("computed_time", pa.int64()),
        ("fingerprint", pa.string()),
        ("summary", pa.string()),
        ("claims", pa.list_(_CLAIM)),
        ("provenance", _PROVENANCE),
        ("source_partition", pa.int64()),
        ("source_offset", pa.int64()),
        ("category", _TEXTS),
        ("absent", _TEXTS),
        ("flags", _TEXTS),
        ("content_fingerprint", pa.string()),
        ("version", pa.string()),
    ]
)
"""`ItemKnowledge` as parquet columns, named as its fields."""


class KnowledgeFileError(FileError):
    """A file does not hold item knowledge; the message names the file and the record."""


def read_knowledge(path: Path) -> Iterator[ItemKnowledge]:
    """The knowledge records of a `.parquet` or JSON lines file, in order; raises `FileError`."""
    documents = _parquet_rows(path) if path.suffix == ".parquet" else read_lines(path)
    for number, document in enumerate(documents, 1):
        yield parse_knowledge(document, f"{path}: record {number}")


def parse_knowledge(document: Mapping[str, Any], name: str) -> ItemKnowledge:
    """The record whose `dataclasses.asdict` is `document`; errors call it `name`.

    Fields that the document is too old to have get their defaults. Raises `KnowledgeFileError`.
    """
    try:
        fields = dict(document)
        provenance = dict(fields.get("provenance") or {})
        for key in ("agents", "examples"):
            provenance[key] = tuple(provenance.get(key) or ())
        provenance["prompt_fingerprints"] = dict(provenance.get("prompt_fingerprints") or {})
        fields["provenance"] = Provenance(**provenance)
        fields["claims"] = tuple(Claim(**claim) for claim in fields.get("claims") or ())
        for key in ("category", "absent", "flags"):
            fields[key] = tuple(fields.get(key) or ())
        return ItemKnowledge(**fields)
    except (TypeError, ValueError) as error:
        raise KnowledgeFileError(f"{name} is not item knowledge ({error})") from error


def write_parquet(path: Path, records: Iterable[ItemKnowledge]) -> None:
    """Write the records as one parquet file of `KNOWLEDGE_SCHEMA`; replaces an older file atomically."""
    # Beside the target, as a rename is atomic only within one file system.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (dataclasses.asdict(record) for record in records)
    with pq.ParquetWriter(temporary, KNOWLEDGE_SCHEMA, compression="zstd") as writer:
        while part := list(itertools.islice(rows, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(part, schema=KNOWLEDGE_SCHEMA))
    temporary.replace(path)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise KnowledgeFileError(f"{path}: not readable as parquet ({error})") from error
    for batch in table.to_batches():
        yield from batch.to_pylist()


class KnowledgeFile:
    """The results of all runs with the same `out`, and in a file beside it the failures.

    `out` grows line by line. For `OUT.parquet` that file is `OUT.jsonl`, from which each run writes the parquet file at
    its end; it must stay there for the next run to continue.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._made: set[str] = set()
        parquet = out.suffix == ".parquet"
        path = out.with_suffix(".jsonl") if parquet else out
        parquet_only = parquet and out.exists() and not path.exists()
        self.lines = Lines(path)
        try:
            self.failures = Lines(out.with_name(f"{out.name}.failed.jsonl"))
        except LinesError:
            self.lines.close()  # releases its lock
            raise
        if parquet_only:  # somebody kept the result and deleted the lines: continue from it
            for record in read_knowledge(out):
                self.lines.append(dataclasses.asdict(record))

    def close(self) -> None:
        """Close both files."""
        self.lines.close()
        self.failures.close()

    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each item's last record, by item id."""
        return {_field(line, "item_id"): _field(line, "fingerprint") for line in self.lines.read()}

    def known(self, item_ids: Iterable[str]) -> Iterator[ItemKnowledge]:
        """The last record of each of these items that has one, in no order."""
        wanted = set(item_ids)
        last = {_field(line, "item_id"): line for line in self.lines.read() if line.get("item_id") in wanted}
        return (parse_knowledge(line, f"{self.lines.path}: item {item_id}") for item_id, line in last.items())

    def add(self, knowledge: ItemKnowledge) -> None:
        """Append a record."""
        self._made.add(knowledge.item_id)
        self.lines.append(dataclasses.asdict(knowledge))

    def add_failure(self, item: Item, fingerprint: str, error: Exception, *, reason: str) -> None:
        """Append why an item failed, with the model's raw answer (`error.answer`) if there is one."""
        self.failures.append(
            {
                "item_id": item.item_id,
                "fingerprint": fingerprint,
                "reason": str(reason),
                "message": str(error),
                "answer": str(getattr(error, "answer", "")),
            }
        )

    def finish(self) -> None:
        """Drop lines superseded by later ones, and resolved failures; write the parquet file."""
        done = self.fingerprints()
        _keep_last(self.lines, lambda line: True)
        _keep_last(
            self.failures,
            lambda line: line["item_id"] not in self._made and done.get(line["item_id"]) != line.get("fingerprint"),
        )
        if self.out != self.lines.path:
            write_parquet(self.out, read_knowledge(self.lines.path))


def _field(line: Mapping[str, Any], name: str) -> str:
    value = line.get(name)
    if not isinstance(value, str):
        raise KnowledgeFileError(f"a line without {name}: is this a file of `freshet distill`?")
    return value


def _keep_last(lines: Lines, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
    """Keep only the last line of each item, if it is wanted."""
    last: dict[str, int] = {}
    count = 0
    for number, line in enumerate(lines.read()):
        count += 1
        item_id = _field(line, "item_id")
        last.pop(item_id, None)
        if wanted(line):
            last[item_id] = number  # numbers, not lines: a catalogue's knowledge need not fit in memory
    if len(last) < count:
        kept = set(last.values())
        lines.rewrite(line for number, line in enumerate(lines.read()) if number in kept)
