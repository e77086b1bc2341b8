"""A file of knowledge: JSON lines that grow one record at a time and survive a crash, or the same as parquet.

Owns the lines' form, the repair of a torn last line and the parquet columns. Must not know where a record comes from.
"""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.records import Claim, ItemKnowledge, Provenance
from streams.files import FileError

_CHUNK = 1 << 16
_ROW_GROUP = 5_000
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
"""`ItemKnowledge` as parquet columns, by the names of its fields."""


class KnowledgeFileError(FileError):
    """A file does not hold what is wanted of it; the message names the file and the line."""


class Lines:
    """JSON objects, one a line, appended and handed to the system as they come.

    Opening repairs what a crash left: a last line without its end is cut off. Raises `KnowledgeFileError` where another
    process has the file open, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = self._open()
        _cut_torn_line(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        self._file.close()

    def read(self) -> Iterator[dict[str, Any]]:
        """Every whole line, in order; raises `KnowledgeFileError` for one that is no JSON object."""
        return read_lines(self.path)

    def append(self, document: Mapping[str, Any]) -> None:
        """Add one line; after a kill of this process it is there."""
        self._file.write(_line(document))
        self._file.flush()

    def rewrite(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Put `documents` in the place of all lines, at once: a reader sees the old file or the new one."""
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            file.writelines(_line(document) for document in documents)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        self._file.close()
        self._file = self._open()

    def _open(self) -> BinaryIO:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+b")
        except OSError as error:
            raise KnowledgeFileError(f"{self.path}: cannot be written ({error})") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise KnowledgeFileError(f"{self.path}: another process is writing it") from None
        return file


def _line(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"  # half a surrogate pair, as models leave it


def _cut_torn_line(file: BinaryIO) -> None:
    """Truncate after the last line feed."""
    end = file.seek(0, os.SEEK_END)
    at = end
    while at > 0:
        size = min(_CHUNK, at)
        file.seek(at - size)
        newline = file.read(size).rfind(b"\n")
        if newline >= 0:
            at = at - size + newline + 1
            break
        at -= size
    if at < end:
        file.truncate(at)
    file.seek(0, os.SEEK_END)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every line of a JSON lines file as a dictionary; raises `KnowledgeFileError` with the line's number."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    document = json.loads(line)
                except ValueError as error:
                    raise KnowledgeFileError(f"{path}: line {number} is not JSON ({error})") from error
                if not isinstance(document, dict):
                    raise KnowledgeFileError(f"{path}: line {number} is no JSON object")
                yield document
    except OSError as error:
        raise KnowledgeFileError(f"{path}: not readable ({error})") from error


def read_knowledge(path: Path) -> Iterator[ItemKnowledge]:
    """Knowledge records of a `.parquet` or JSON lines file, in order; raises `KnowledgeFileError`."""
    documents = _parquet_rows(path) if path.suffix == ".parquet" else read_lines(path)
    for number, document in enumerate(documents, 1):
        yield parse_knowledge(document, f"{path}: record {number}")


def parse_knowledge(document: Mapping[str, Any], name: str) -> ItemKnowledge:
    """The record that `dataclasses.asdict` made `document` of; `name` is what an error calls it.

    Fields that came later have their defaults. Raises `KnowledgeFileError`.
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
        raise KnowledgeFileError(f"{name} is no knowledge of an item ({error})") from error


def write_parquet(path: Path, records: Iterable[ItemKnowledge]) -> None:
    """Write the records as one parquet file of `KNOWLEDGE_SCHEMA`, in place of an older one at once."""
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
