"""The bytes under a feature key: a header, vectors, and for a user the inferred behaviors.

Owns the blobs, encoding and decoding; `header.py` and `vectors.py` own their parts. Must not know Redis. The page
"Redis layout" of the docs describes the bytes for readers in other languages.
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

from freshet.header import (
    DEGRADED,
    DELETED,
    DELETION_TIER,
    FIELDS,
    FORMAT,
    HEADER,
    OFFSETS,
    BlobError,
    BlobHeader,
    Shape,
    decode_header,
    pack_header,
)
from freshet.records import InferredBehavior, ItemFeatures, ItemKnowledge, ItemTier, UserFeatures
from freshet.vectors import DTYPES, FLOAT16, UNKNOWN, Dtype, encode_vectors

__all__ = [
    "DEGRADED",
    "HEADER",
    "LEAD_MASK",
    "BlobError",
    "BlobHeader",
    "Rows",
    "Shape",
    "User",
    "decode_header",
    "decode_knowledge",
    "decode_rows",
    "decode_user",
    "encode_all_knowledge",
    "encode_deletion",
    "encode_item",
    "encode_items",
    "encode_knowledge",
    "encode_user",
    "encode_users",
]

MAX_DIMS = 4096

# One comparison instead of four: format, dtype, the deleted flag and dims are read as one number.
LEAD_MASK = int.from_bytes(bytes([0xFF, 0xFF, 0, DELETED, 0xFF, 0xFF, 0, 0]), "little")

R = TypeVar("R")
F = TypeVar("F", ItemFeatures, UserFeatures)
T = TypeVar("T")


class Rows(NamedTuple):
    """Decoded item blobs, one row each; where `present` is False the other arrays hold zeros.

    The arrays other than `vectors`, `present` and `tier` are read-only views of the blobs.
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

    header: BlobHeader
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
    """The blob of each item; raises BlobError with the index of the first item that no blob can hold."""
    number = DTYPES[dtype].number

    def head(item: ItemFeatures) -> bytes:
        times = item.event_time, item.computed_time, item.source_offset
        return pack_header(item.tier, item.dims, *times, dtype=number, partition=item.source_partition)

    heads = _each(items, head)
    vectors = _vectors(items, lambda item: (item.vector,), dtype)
    return [head + vector for head, vector in zip(heads, vectors, strict=True)]


def encode_users(users: Sequence[UserFeatures], dtype: str = FLOAT16.name) -> list[bytes]:
    """The blob of each user; raises BlobError with the index of the first user that no blob can hold.

    Behaviors that name no item are left out, as a ranker cannot use them; they are in the record on Kafka and in the
    inferred vector.
    """
    number = DTYPES[dtype].number
    ends = _each(users, lambda user: _user_ends(user, number))
    vectors = _vectors(users, lambda user: (user.log_vector, user.inferred_vector), dtype)
    rows = zip(ends, vectors[::2], vectors[1::2], strict=True)  # each user has two vectors
    return [b"".join((head, log, inferred, tail)) for (head, tail), log, inferred in rows]


def _user_ends(features: UserFeatures, dtype: int) -> tuple[bytes, bytes]:
    """The bytes before the vectors, and those after them."""
    behaviors = [behavior for behavior in features.behaviors if behavior.item_id or not behavior.text]
    confidences = [behavior.confidence for behavior in behaviors]
    try:
        ids = [behavior.item_id.encode() for behavior in behaviors]
        lists = struct.pack(f"<{len(ids)}f{len(ids)}H", *confidences, *map(len, ids))
    except (struct.error, OverflowError, UnicodeEncodeError) as error:
        raise BlobError(f"a behavior has no id of at most 65,535 bytes or no float32 as confidence: {error}") from error
    if not math.isfinite(sum(confidences)):
        raise BlobError("a confidence is not finite")
    head = pack_header(
        features.tier,
        features.dims,
        features.event_time,
        features.computed_time,
        # A user's features come from no single record, so the computed time takes the place of the source offset: of
        # two refreshes with the same newest event, the later one wins.
        features.computed_time,
        dtype=dtype,
        flags=DEGRADED if features.degraded else 0,
        behaviors=len(ids),
        history_length=features.history_length,
    )
    return head, b"".join((lists, *ids))


def encode_knowledge(knowledge: ItemKnowledge) -> bytes:
    """The blob of one item's knowledge: header and JSON, fields as in the Avro contract; raises BlobError."""
    head = pack_header(
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
        raise BlobError(f"the knowledge is not valid JSON: {error}") from error


def encode_all_knowledge(knowledge: Sequence[ItemKnowledge]) -> list[bytes]:
    """The blob of each record; raises BlobError with the index of the first record that no blob can hold."""
    return _each(knowledge, encode_knowledge)


def encode_deletion(event_time: int, sequence: int) -> bytes:
    """The blob that replaces a deleted entity, so that a late retry of an older write does not bring it back."""
    return pack_header(DELETION_TIER, 0, event_time, event_time, sequence, flags=DELETED)


def decode_rows(blobs: Sequence[bytes | None], shape: Shape, out: NDArray[np.float32] | None = None) -> Rows:
    """Item blobs as arrays; a row is absent for None, a deletion, another shape or another format.

    If `out` is given, the vectors are written to its first N rows; it must be a C-contiguous float32 matrix of at least
    N rows of this width, else ValueError. 500 rows of 128 float16 take 0.05 ms.
    """
    count, row = len(blobs), _row(shape)
    vectors = _rows_of(out, count, shape.dims)
    try:
        data = b"".join(blobs)  # type: ignore[arg-type]
    except TypeError:  # a None among them
        gap = bytes(row.itemsize)  # the only loop in Python over rows: NumPy does all the rest at once
        data = b"".join([gap if blob is None else blob for blob in blobs])
    present = None
    if len(data) == count * row.itemsize:
        heads = np.frombuffer(data, row)
        present = _usable(heads, shape)
        if (found := np.count_nonzero(present)) != count and found + blobs.count(None) != count:
            present = None
    if present is None:  # there is a deletion, another length or shape: rare, so only then is each row looked at
        heads = _only_usable(blobs, shape, row)
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


def _rows_of(out: NDArray[np.float32] | None, count: int, dims: int) -> NDArray[np.float32]:
    """The first `count` rows of `out`, or of a new matrix."""
    if out is None:
        return np.empty((count, dims), np.float32)
    if out.dtype != np.float32 or out.ndim != 2 or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError("out is not a writable C-contiguous float32 matrix")
    if len(out) < count or out.shape[1] != dims:
        raise ValueError(f"out is {out.shape[0]} x {out.shape[1]}, wanted at least {count} x {dims}")
    return out[:count]


def _usable(heads: NDArray[np.void], shape: Shape) -> NDArray[np.bool_]:
    """Which rows have this format, dtype and width, and are not deletions (N,)."""
    lead = bytes([FORMAT, _dtype(shape).number, 0, 0, *shape.dims.to_bytes(2, "little"), 0, 0])
    usable: NDArray[np.bool_] = (heads["lead"] & np.uint64(LEAD_MASK)) == np.uint64(int.from_bytes(lead, "little"))
    return usable


def _only_usable(blobs: Sequence[bytes | None], shape: Shape, row: np.dtype[np.void]) -> NDArray[np.void]:
    """One row a blob, zero for those that are not usable (N,)."""
    gap = bytes(row.itemsize)
    sized = [gap if blob is None or len(blob) != row.itemsize else blob for blob in blobs]
    present = _usable(np.frombuffer(b"".join(sized), row), shape).tolist()
    return np.frombuffer(b"".join([blob if usable else gap for blob, usable in zip(sized, present, strict=True)]), row)


def decode_user(blob: bytes | None, shape: Shape) -> User | None:
    """The contents of a user blob; None for a missing blob, a deletion, another shape or another format."""
    header = decode_header(blob)
    dtype, dims = _dtype(shape), shape.dims
    if blob is None or header is None or header.deleted or (header.dims, header.dtype) != (dims, dtype.number):
        return None
    try:
        stored = np.frombuffer(blob, _row(shape)["vector"], 2, HEADER.size)
        vectors = np.empty((2, dims), np.float32)
        dtype.decode(stored, vectors)
        return User(header, vectors[0], vectors[1], _behaviors(blob, HEADER.size + stored.nbytes, header.behaviors))
    except (struct.error, ValueError):  # the blob is damaged: for a ranker, no features are better than an exception
        return None


def _behaviors(blob: bytes, at: int, count: int) -> tuple[InferredBehavior, ...]:
    confidences = struct.unpack_from(f"<{count}f", blob, at)
    lengths = struct.unpack_from(f"<{count}H", blob, at + 4 * count)
    ends = list(accumulate(lengths, initial=at + 6 * count))
    if ends[-1] != len(blob):
        raise ValueError("the ids do not end where the blob ends")
    ids = (blob[start:end].decode() for start, end in pairwise(ends))
    return tuple(map(InferredBehavior, ids, confidences))


def decode_knowledge(blob: bytes | None) -> tuple[BlobHeader, dict[str, Any]] | None:
    """Header and JSON object of a knowledge blob; None for a missing blob or a deletion."""
    header = decode_header(blob)
    if blob is None or header is None or header.deleted:
        return None
    return header, json.loads(blob[HEADER.size :])


def _each(records: Sequence[R], make: Callable[[R], T]) -> list[T]:
    """`make(record)` of each; a BlobError gets the index of its record."""
    made = []
    for index, record in enumerate(records):
        try:
            made.append(make(record))
        except BlobError as error:
            raise BlobError(str(error), index) from error
    return made


def _vectors(records: Sequence[F], of: Callable[[F], tuple[bytes, ...]], dtype: str) -> list[bytes]:
    """The stored vectors of all records in one list; raises BlobError with the index of a record."""

    def check(record: F) -> tuple[bytes, ...]:
        vectors = of(record)
        for vector in vectors:
            if not 0 < record.dims <= MAX_DIMS or len(vector) != 2 * record.dims:
                raise BlobError(f"a vector of {len(vector)} bytes is not {record.dims} float16")
        return vectors

    vectors = _each(records, check)
    try:
        return encode_vectors(list(chain.from_iterable(vectors)), DTYPES[dtype])
    except ValueError:
        _each(records, lambda record: _refuse(of(record), dtype))  # one by one, to find the record at fault
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
    """The blob of an item as a NumPy dtype; `lead` is the first eight bytes of the header, `vector` all after it."""
    codes = {"B": "u1", "H": "<u2", "q": "<i8", "i": "<i4", "I": "<u4"}
    vector = _dtype(shape).layout(shape.dims)
    columns: dict[str, tuple[Any, int]] = {
        name: (codes[code], at) for (name, code, _), at in zip(FIELDS, OFFSETS, strict=True)
    }
    columns |= {"lead": ("<u8", 0), "vector": (vector, HEADER.size)}
    formats, offsets = zip(*columns.values(), strict=True)
    size = HEADER.size + vector.itemsize
    return np.dtype({"names": list(columns), "formats": formats, "offsets": offsets, "itemsize": size})
