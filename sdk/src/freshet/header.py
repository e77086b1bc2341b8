"""The header of every blob (its first 40 bytes), and the shape that all vectors of a version share.

Owns the header's fields, encoding and decoding. Must not know what follows the header.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from freshet.vectors import DTYPES, FLOAT16

FORMAT = 1
DELETED, DEGRADED = 1, 2
DELETION_TIER = 255
"""The highest tier, so that a deletion wins over every feature of the same event time."""

FIELDS: tuple[tuple[str, str, str], ...] = (
    ("format", "B", f"{FORMAT}. Treat a value of another format as absent"),
    ("dtype", "B", "dtype of the vectors, see below. Treat a value that is not the version's as absent"),
    ("tier", "B", f"item: 1 text, 2 knowledge; user: 1 fallback, 2 diffusion; {DELETION_TIER}: deletion"),
    ("flags", "B", f"{DELETED} deleted, {DEGRADED} degraded (a deadline cut the inference short)"),
    ("dims", "H", "values in a vector; 0 in knowledge and deletions"),
    ("behaviors", "H", "number of inferred behaviors (users), else 0"),
    ("event_time", "q", "milliseconds since 1970: the event that these features were made from"),
    ("computed_time", "q", "milliseconds since 1970"),
    ("sequence", "q", "items, knowledge, deletions: offset of the source record, -1 unknown; users: computed time"),
    ("source_partition", "i", "partition of the source record, -1 unknown"),
    ("history_length", "I", "number of events in the history used (users), else 0"),
)
"""Name, `struct` code and meaning of each field of the header, in their order, without gaps."""
HEADER = struct.Struct("<" + "".join(code for _, code, _ in FIELDS))
OFFSETS = tuple(struct.calcsize("<" + "".join(code for _, code, _ in FIELDS[:n])) for n in range(len(FIELDS)))

_NUMBERS = frozenset(dtype.number for dtype in DTYPES.values())


class BlobError(ValueError):
    """A record that no blob can hold: a vector of the wrong length, or a value that is not finite or out of range.

    `index` is the position of the record in the argument of the call.
    """

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(message)
        self.index = index


class Shape(NamedTuple):
    """What all vectors of a version have in common; as text, `128 float16`, it stands under its key in Redis."""

    dims: int
    dtype: str = FLOAT16.name

    @classmethod
    def parse(cls, text: bytes) -> Shape:
        """The shape that stands under a version's key."""
        dims, _, dtype = text.decode().partition(" ")
        return cls(int(dims), dtype)

    def __str__(self) -> str:
        return f"{self.dims} {self.dtype}"


class BlobHeader(NamedTuple):
    """The first 40 bytes of every blob; see FIELDS."""

    format: int
    dtype: int
    tier: int
    flags: int
    dims: int
    behaviors: int
    event_time: int
    computed_time: int
    sequence: int
    source_partition: int
    history_length: int

    @property
    def deleted(self) -> bool:
        return bool(self.flags & DELETED)


def decode_header(blob: bytes | None) -> BlobHeader | None:
    """The header of a blob, or None where there is none of this format."""
    if blob is None or len(blob) < HEADER.size:
        return None
    header = BlobHeader(*HEADER.unpack_from(blob))
    return header if header.format == FORMAT and header.dtype in _NUMBERS else None


def pack_header(
    tier: int,
    dims: int,
    event_time: int,
    computed_time: int,
    sequence: int,
    *,
    dtype: int = FLOAT16.number,
    flags: int = 0,
    behaviors: int = 0,
    partition: int = -1,
    history_length: int = 0,
) -> bytes:
    """The header as bytes; raises BlobError."""
    if tier == DELETION_TIER and not flags & DELETED:
        raise BlobError("tier 255 is reserved for deletions")
    times = event_time, computed_time, sequence
    try:
        return HEADER.pack(FORMAT, dtype, tier, flags, dims, behaviors, *times, partition, history_length)
    except struct.error as error:
        raise BlobError(f"a number does not fit the header: {error}") from error
