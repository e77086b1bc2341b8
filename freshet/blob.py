"""The bytes under a feature key: a fixed little-endian header, vectors, and what an entity adds.

Owns the layout (in words in `docs/redis-layout.md`), in both directions; `vectors.py` owns a vector's bytes. Must not
know Redis.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from freshet.vectors import DTYPES, FLOAT16, UNKNOWN, Dtype, encode_vectors
from schemas.records import InferredBehavior, ItemFeatures, ItemKnowledge, ItemTier, UserFeatures

FORMAT = 1
DELETED, DEGRADED = 1, 2
DELETION_TIER = 255
"""A deletion wins over every feature of the same event time."""
MAX_DIMS = 4096

FIELDS: tuple[tuple[str, str, str], ...] = (
    ("format", "B", f"{FORMAT}. Treat another number as an absent value"),
    ("dtype", "B", "dtype of the vectors, see below. Treat one that is not the version's as an absent value"),
    ("tier", "B", f"item: 1 text, 2 knowledge; user: 1 fallback, 2 diffusion; {DELETION_TIER}: deletion"),
    ("flags", "B", f"{DELETED} deleted, {DEGRADED} degraded (a deadline cut the inference short)"),
    ("dims", "H", "values in a vector; 0 in knowledge and deletions"),
    ("behaviors", "H", "number of inferred behaviours (users), else 0"),
    ("event_time", "q", "milliseconds since 1970: the event that these features were made from"),
    ("computed_time", "q", "milliseconds since 1970"),
    ("sequence", "q", "items, knowledge, deletions: offset of the source record, -1 unknown; users: computed time"),
    ("source_partition", "i", "partition of the source record, -1 unknown"),
    ("history_length", "I", "number of events in the history used (users), else 0"),
)
"""Name, `struct` code and meaning of each field of the header, in their order, without gaps."""
HEADER = struct.Struct("<" + "".join(code for _, code, _ in FIELDS))
OFFSETS = tuple(struct.calcsize("<" + "".join(code for _, code, _ in FIELDS[:n])) for n in range(len(FIELDS)))

# format, dtype, the deleted flag and dims, read as one number, decide whether a row can be used.
_LEAD_MASK = int.from_bytes(bytes([0xFF, 0xFF, 0, DELETED, 0xFF, 0xFF, 0, 0]), "little")
_NUMBERS = frozenset(one.number for one in DTYPES.values())

R = TypeVar("R")
F = TypeVar("F", ItemFeatures, UserFeatures)
T = TypeVar("T")


class BlobError(ValueError):
    """A record that cannot become a blob: wrong length of a vector, a value that is not finite or out of range.

    `index` is the record's place in the call that refused it.
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


class Header(NamedTuple):
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


class Rows(NamedTuple):
    """Decoded item blobs, one row each; where `present` is False the other arrays hold zeros.

    All but the first two and `tier` are read-only views of the blobs as they came.
    """

    vectors: NDArray[np.float32]  # (N, dims)
    present: NDArray[np.bool_]  # (N,)
    event_time: NDArray[np.int64]  # (N,)
    tier: NDArray[np.uint8]  # (N,)
    computed_time: NDArray[np.int64]  # (N,)
    source_partition: NDArray[np.int32]  # (N,)
    source_offset: NDArray[np.int64]  # (N,)


class User(NamedTuple):
    """A decoded user blob."""

    header: Header
    log_vector: NDArray[np.float32]  # (dims,)
    inferred_vector: NDArray[np.float32]  # (dims,)
    behaviors: tuple[InferredBehavior, ...]


def encode_item(features: ItemFeatures, dtype: str = FLOAT16.name) -> bytes:
    """The blob of one item; raises BlobError."""
    return encode_items([features], dtype)[0]


def encode_user(features: UserFeatures, dtype: str = FLOAT16.name) -> bytes:
    """The blob of one user; raises BlobError."""
    return encode_users([features], dtype)[0]


def encode_items(items: Sequence[ItemFeatures], dtype: str = FLOAT16.name) -> list[bytes]:
    """The blob of each item; raises BlobError with the index of the first that has none."""
    number = DTYPES[dtype].number

    def head(one: ItemFeatures) -> bytes:
        times = one.event_time, one.computed_time, one.source_offset
        return _header(one.tier, one.dims, *times, dtype=number, partition=one.source_partition)

    heads = _each(items, head)
    vectors = _vectors(items, lambda one: (one.vector,), dtype)
    return [head + vector for head, vector in zip(heads, vectors, strict=True)]


def encode_users(users: Sequence[UserFeatures], dtype: str = FLOAT16.name) -> list[bytes]:
    """The blob of each user; raises BlobError with the index of the first that has none.

    A user's features come from no single record, so the computed time stands where an item has its source offset: of
    two refreshes on the same newest event the later one stays. Behaviours in words alone stay out: a ranker could not
    use them, and the format keeps its number. They are in the record on Kafka and in the inferred vector.
    """
    number = DTYPES[dtype].number
    ends = _each(users, lambda one: _user_ends(one, number))
    vectors = _vectors(users, lambda one: (one.log_vector, one.inferred_vector), dtype)
    rows = zip(ends, vectors[::2], vectors[1::2], strict=True)
    return [b"".join((head, log, inferred, tail)) for (head, tail), log, inferred in rows]


def _user_ends(features: UserFeatures, dtype: int) -> tuple[bytes, bytes]:
    """What stands before and after the vectors."""
    behaviors = [behavior for behavior in features.behaviors if behavior.item_id or not behavior.text]
    try:
        ids = [behavior.item_id.encode() for behavior in behaviors]
        lengths = struct.pack(f"<{len(ids)}H", *map(len, ids))
        confidences = struct.pack(f"<{len(ids)}f", *[behavior.confidence for behavior in behaviors])
    except (struct.error, OverflowError, UnicodeEncodeError) as error:
        raise BlobError(f"a behaviour is no id of at most 65,535 bytes and a float32: {error}") from error
    if not all(math.isfinite(behavior.confidence) for behavior in features.behaviors):
        raise BlobError("a confidence is not finite")
    head = _header(
        features.tier,
        features.dims,
        features.event_time,
        features.computed_time,
        features.computed_time,
        dtype=dtype,
        flags=DEGRADED if features.degraded else 0,
        behaviors=len(ids),
        history_length=features.history_length,
    )
    return head, b"".join((confidences, lengths, *ids))


def encode_knowledge(knowledge: ItemKnowledge) -> bytes:
    """The blob of one item's knowledge: header and JSON, fields as in the Avro contract; raises BlobError."""
    head = _header(
        int(ItemTier.KNOWLEDGE),
        0,
        knowledge.event_time,
        knowledge.computed_time,
        knowledge.source_offset,
        partition=knowledge.source_partition,
    )
    try:
        document = json.dumps(dataclasses.asdict(knowledge), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return head + document.encode()
    except (TypeError, ValueError) as error:
        raise BlobError(f"the knowledge is no JSON: {error}") from error


def encode_all_knowledge(knowledge: Sequence[ItemKnowledge]) -> list[bytes]:
    """The blob of each; raises BlobError with the index of the first that has none."""
    return _each(knowledge, encode_knowledge)


def encode_deletion(event_time: int, sequence: int) -> bytes:
    """The blob that stands where an entity was deleted, so that a late retry of an older write does not revive it."""
    return _header(DELETION_TIER, 0, event_time, event_time, sequence, flags=DELETED)


def decode_header(blob: bytes | None) -> Header | None:
    """The header of a blob, or None where there is none of this format."""
    if blob is None or len(blob) < HEADER.size:
        return None
    header = Header(*HEADER.unpack_from(blob))
    return header if header.format == FORMAT and header.dtype in _NUMBERS else None


def decode_rows(blobs: Sequence[bytes | None], shape: Shape, out: NDArray[np.float32] | None = None) -> Rows:
    """Item blobs as arrays; None, a deletion, another shape or another format is an absent row.

    The vectors go into the first rows of `out`, a C-contiguous float32 matrix of at least N rows, where it is given.
    There is no Python loop over rows but the one that fills gaps: 0.05 ms for 500 rows of 128 float16.
    """
    count, row = len(blobs), _row(shape)
    vectors = _room(out, count, shape.dims)
    try:
        data = b"".join(blobs)  # type: ignore[arg-type]
    except TypeError:  # a None among them
        gap = bytes(row.itemsize)
        data = b"".join([gap if blob is None else blob for blob in blobs])
    present = None
    if len(data) == count * row.itemsize:
        heads = np.frombuffer(data, row)
        present = _usable(heads, shape)
        if (found := np.count_nonzero(present)) != count and found + blobs.count(None) != count:
            present = None
    if present is None:  # a deletion, another length or shape: only now is it worth a look at every row
        heads = _sieved(blobs, shape, row)
        present = _usable(heads, shape)
    _dtype(shape).decode(heads["vector"], vectors)
    return Rows(
        vectors,
        present,
        heads["event_time"],
        heads["tier"].copy(),
        heads["computed_time"],
        heads["source_partition"],
        heads["sequence"],
    )


def _room(out: NDArray[np.float32] | None, count: int, dims: int) -> NDArray[np.float32]:
    """`count` rows of `dims`, of `out` or new."""
    if out is None:
        return np.empty((count, dims), np.float32)
    if out.dtype != np.float32 or out.ndim != 2 or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError("out is no writable C-contiguous float32 matrix")
    if len(out) < count or out.shape[1] != dims:
        raise ValueError(f"out is {out.shape[0]} x {out.shape[1]}, wanted at least {count} x {dims}")
    return out[:count]


def _usable(heads: NDArray[np.void], shape: Shape) -> NDArray[np.bool_]:
    lead = bytes([FORMAT, _dtype(shape).number, 0, 0, *shape.dims.to_bytes(2, "little"), 0, 0])
    usable: NDArray[np.bool_] = (heads["lead"] & np.uint64(_LEAD_MASK)) == np.uint64(int.from_bytes(lead, "little"))
    return usable


def _sieved(blobs: Sequence[bytes | None], shape: Shape, row: np.dtype[np.void]) -> NDArray[np.void]:
    """The usable ones of `blobs`, and zeros for the others."""
    gap = bytes(row.itemsize)
    sized = [gap if blob is None or len(blob) != row.itemsize else blob for blob in blobs]
    present = _usable(np.frombuffer(b"".join(sized), row), shape).tolist()
    return np.frombuffer(b"".join([blob if here else gap for blob, here in zip(sized, present, strict=True)]), row)


def decode_user(blob: bytes | None, shape: Shape) -> User | None:
    """A user blob, or None where there is none of this shape and format, or a deletion."""
    header = decode_header(blob)
    dtype, dims = _dtype(shape), shape.dims
    if blob is None or header is None or header.deleted or (header.dims, header.dtype) != (dims, dtype.number):
        return None
    try:
        stored = np.frombuffer(blob, _row(shape)["vector"], 2, HEADER.size)
        vectors = np.empty((2, dims), np.float32)
        dtype.decode(stored, vectors)
        return User(header, vectors[0], vectors[1], _behaviors(blob, HEADER.size + stored.nbytes, header.behaviors))
    except (struct.error, ValueError):  # cut short by another hand: no features are better than no ranking
        return None


def _behaviors(blob: bytes, at: int, count: int) -> tuple[InferredBehavior, ...]:
    confidences = struct.unpack_from(f"<{count}f", blob, at)
    lengths = struct.unpack_from(f"<{count}H", blob, at + 4 * count)
    ends = list(accumulate(lengths, initial=at + 6 * count))
    if ends[-1] != len(blob):
        raise ValueError("the ids do not end where the blob ends")
    ids = (blob[start:end].decode() for start, end in pairwise(ends))
    return tuple(map(InferredBehavior, ids, confidences))


def decode_knowledge(blob: bytes | None) -> tuple[Header, dict[str, Any]] | None:
    """Header and JSON object of a knowledge blob, or None where there is none or a deletion."""
    header = decode_header(blob)
    if blob is None or header is None or header.deleted:
        return None
    return header, json.loads(blob[HEADER.size :])


def _header(
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
    if tier == DELETION_TIER and not flags & DELETED:
        raise BlobError("tier 255 is a deletion's")
    times = event_time, computed_time, sequence
    try:
        return HEADER.pack(FORMAT, dtype, tier, flags, dims, behaviors, *times, partition, history_length)
    except struct.error as error:
        raise BlobError(f"a number does not fit the header: {error}") from error


def _each(records: Sequence[R], make: Callable[[R], T]) -> list[T]:
    """`make` of each record; a BlobError gets the record's index."""
    made = []
    for index, one in enumerate(records):
        try:
            made.append(make(one))
        except BlobError as error:
            raise BlobError(str(error), index) from error
    return made


def _vectors(records: Sequence[F], of: Callable[[F], tuple[bytes, ...]], dtype: str) -> list[bytes]:
    """The stored vectors of all records, end to end; raises BlobError with the index of a record."""

    def check(one: F) -> tuple[bytes, ...]:
        vectors = of(one)
        for vector in vectors:
            if not 0 < one.dims <= MAX_DIMS or len(vector) != 2 * one.dims:
                raise BlobError(f"a vector of {len(vector)} bytes is not {one.dims} float16")
        return vectors

    vectors = _each(records, check)
    try:
        return encode_vectors(list(chain.from_iterable(vectors)), DTYPES[dtype])
    except ValueError:
        _each(records, lambda one: _refuse(of(one), dtype))
        raise


def _refuse(vectors: Sequence[bytes], dtype: str) -> None:
    try:
        encode_vectors(vectors, DTYPES[dtype])
    except ValueError as error:
        raise BlobError(str(error)) from error


def _dtype(shape: Shape) -> Dtype:
    return DTYPES.get(shape.dtype, UNKNOWN)


@cache
def _row(shape: Shape) -> np.dtype[np.void]:
    """The blob of an item as a NumPy type; `lead` is the first eight bytes of the header, `vector` all after it."""
    codes = {"B": "u1", "H": "<u2", "q": "<i8", "i": "<i4", "I": "<u4"}
    vector = _dtype(shape).layout(shape.dims)
    columns: dict[str, tuple[Any, int]] = {
        name: (codes[code], at) for (name, code, _), at in zip(FIELDS, OFFSETS, strict=True)
    }
    columns |= {"lead": ("<u8", 0), "vector": (vector, HEADER.size)}
    formats, offsets = zip(*columns.values(), strict=True)
    size = HEADER.size + vector.itemsize
    return np.dtype({"names": list(columns), "formats": formats, "offsets": offsets, "itemsize": size})
