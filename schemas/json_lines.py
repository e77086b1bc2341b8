"""JSON lines files that are appended to line by line and survive a crash.

Owns the format of a line, the repair of a torn last line, and the lock on the file. Must not know what a line means.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from schemas.files import FileError

_CHUNK = 1 << 16


class LinesError(FileError):
    """A file cannot be read or written as JSON lines; the message names the file and the line."""


class Lines:
    """JSON objects, one per line; each append is handed to the operating system at once.

    Opening repairs what a crash left: an incomplete last line is cut off. Raises `LinesError` if another process has
    the file open, or it cannot be written.
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
        """Close the file and release its lock. May be called twice."""
        self._file.close()

    def read(self) -> Iterator[dict[str, Any]]:
        """Every complete line, in order; raises `LinesError` for one that is not a JSON object."""
        return read_lines(self.path)

    def append(self, document: Mapping[str, Any]) -> None:
        """Add one line; it survives a kill of this process, though not a power failure."""
        self._file.write(_line(document))
        self._file.flush()

    def rewrite(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Replace all lines by `documents`, atomically: a reader sees the old file or the new one."""
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            file.writelines(_line(document) for document in documents)
            file.flush()
            os.fsync(file.fileno())  # else a power failure after the rename could leave an empty file
        temporary.replace(self.path)
        self._file.close()  # it is still the old file, which has no name any more
        self._file = self._open()

    def _open(self) -> BinaryIO:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+b")  # append mode writes at the end, wherever a read has left the position
        except OSError as error:
            raise LinesError(f"{self.path}: cannot be written ({error})") from error
        try:
            # The kernel releases the lock of a dead process, so a crash leaves no stale one behind.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise LinesError(f"{self.path}: another process is writing it") from None
        return file


def _line(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"  # models emit halves of surrogate pairs


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
    """Every line of a JSON lines file as a dictionary; raises `LinesError` with the line's number."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    document = json.loads(line)
                except ValueError as error:
                    raise LinesError(f"{path}: line {number} is not JSON ({error})") from error
                if not isinstance(document, dict):
                    raise LinesError(f"{path}: line {number} is not a JSON object")
                yield document
    except OSError as error:
        raise LinesError(f"{path}: not readable ({error})") from error
