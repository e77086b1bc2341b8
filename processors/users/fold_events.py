"""User events by the column: which rows need a closer look, and the fold of the good ones into histories.

Owns the vectorised form of `store.histories.pack` (a test holds the two equal, byte by byte) and a mask that holds at
least every row `processors.validate` would refuse. Must not decide what a violation is, nor know Kafka or Redis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from processors.validate import EARLIEST_MS, MAX_ID_BYTES
from store.histories import EVENT_IDENTITY, OFFSET_IDENTITY, HistoryBatch

_BY_OFFSET = np.dtype([("time", ">i8"), ("size", ">u4"), ("kind", "u1"), ("partition", ">u4"), ("offset", ">u8")])
_BY_EVENT = np.dtype([("time", ">i8"), ("size", ">u4"), ("kind", "u1"), ("length", ">u2")])
_RECORD_HEAD_BYTES = 12
_ITEM_LENGTH_BYTES = 2
_BLANK = pa.array(["", *(chr(code) for code in range(0x3001) if chr(code).isspace())])


@dataclass(frozen=True, slots=True)
class EventRows:
    """Decoded events and where they stood.

    columns: R rows of `schemas.columns.EVENT_SCHEMA` · keys (R,) Arrow binary, null where the record had none ·
    partitions (R,) int64 · offsets (R,) int64 · batch_rows (R,) int64: order of arrival over all partitions.
    """

    columns: pa.RecordBatch
    keys: pa.Array
    partitions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    batch_rows: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    def take(self, rows: NDArray[np.int64]) -> EventRows:
        """These rows, in this order."""
        index = pa.array(rows)
        return EventRows(
            self.columns.take(index),
            self.keys.take(index),
            self.partitions[rows],
            self.offsets[rows],
            self.batch_rows[rows],
        )


def suspicious(rows: EventRows, now_ms: int, max_future_s: float) -> NDArray[np.bool_]:
    """(R,) True for every row that breaks the contract, and for a few that do not."""
    columns = rows.columns
    times = columns["event_time"].to_numpy()
    doubted: NDArray[np.bool_] = (times < EARLIEST_MS) | (times > now_ms + 1_000 * max_future_s)
    doubted |= ~_bools(pc.equal(rows.keys, _binary(columns["user_id"])), if_null=True)
    doubted |= ~_bools(pc.is_finite(columns["value"]), if_null=True)
    for name in ("user_id", "item_id", "event_type"):
        # What is blank begins with white space, or with nothing.
        doubted |= _bools(pc.is_in(pc.utf8_slice_codeunits(columns[name], 0, 1), _BLANK))
    for name in ("user_id", "item_id", "event_id"):
        doubted |= _sizes(columns[name]) > MAX_ID_BYTES
    return doubted


class ErasedUser(NamedTuple):
    """A user's erasure: its row in the batch, and the milliseconds up to which it forgets."""

    batch_row: int
    erased_ms: int


def fold(rows: EventRows, erasures: Mapping[str, ErasedUser]) -> HistoryBatch:
    """Group rows by user; `erasures` gives each erased user's last erasure.

    An erased user's rows from before that row of the batch are left out.
    """
    if erasures and len(rows):
        users = rows.columns["user_id"].to_pylist()
        erased_rows = {user: erasure.batch_row for user, erasure in erasures.items()}
        erased_at = np.fromiter((erased_rows.get(user, -1) for user in users), np.int64, len(users))
        rows = rows.take(np.flatnonzero(rows.batch_rows > erased_at))
    grouped = rows.columns["user_id"].dictionary_encode()
    user_of_row = grouped.indices.to_numpy()
    user_ids = grouped.dictionary.to_pylist()
    order = np.argsort(user_of_row, kind="stable")
    counts = np.bincount(user_of_row, minlength=len(user_ids))
    gone = list(erasures.keys() - set(user_ids)) if erasures else []
    packed = _packed(rows).take(pa.array(order))
    _, ends, data = packed.buffers()
    return HistoryBatch(
        user_ids=user_ids + gone,
        erased=_erased_ms([*user_ids, *gone], erasures),
        first=np.concatenate(([0], np.cumsum(counts), np.full(len(gone), len(rows)))).astype(np.int64),
        ends=np.frombuffer(ends, np.int32, len(rows) + 1).astype(np.int64) if len(rows) else np.zeros(1, np.int64),
        data=memoryview(data) if data is not None else memoryview(b""),
    )


def _erased_ms(user_ids: Sequence[str], erasures: Mapping[str, ErasedUser]) -> list[int]:
    if not erasures:
        return [0] * len(user_ids)
    return [max(1, erasures[user_id].erased_ms) if user_id in erasures else 0 for user_id in user_ids]


def _packed(rows: EventRows) -> pa.Array:
    """(R,) Arrow binary: the packed record of each row."""
    items, types = _binary(rows.columns["item_id"]), _binary(rows.columns["event_type"])
    ids = _binary(rows.columns["event_id"])
    id_sizes, item_sizes = _sizes(ids), _sizes(items)
    tail_sizes = _ITEM_LENGTH_BYTES + item_sizes + _sizes(types)
    times = rows.columns["event_time"].to_numpy()

    by_offset = np.zeros(len(rows), dtype=_BY_OFFSET)
    by_offset["time"], by_offset["kind"] = times, OFFSET_IDENTITY
    by_offset["size"] = _BY_OFFSET.itemsize - _RECORD_HEAD_BYTES + tail_sizes
    by_offset["partition"], by_offset["offset"] = rows.partitions, rows.offsets
    heads = _fixed(by_offset)
    if id_sizes.any():
        by_event = np.zeros(len(rows), dtype=_BY_EVENT)
        by_event["time"], by_event["kind"], by_event["length"] = times, EVENT_IDENTITY, id_sizes
        by_event["size"] = _BY_EVENT.itemsize - _RECORD_HEAD_BYTES + id_sizes + tail_sizes
        heads = pc.if_else(pa.array(id_sizes > 0), _fixed(by_event), heads)
    item_lengths = _fixed(item_sizes.astype(">u2"))
    return pc.binary_join_element_wise(heads, ids, item_lengths, items, types, b"")


def _binary(column: pa.Array) -> pa.Array:
    return column.cast(pa.binary())


def _sizes(column: pa.Array) -> NDArray[np.int64]:
    sizes: NDArray[np.int64] = pc.binary_length(column).to_numpy().astype(np.int64)
    return sizes


def _fixed(records: NDArray[np.generic]) -> pa.Array:
    """(R,) Arrow binary over the bytes of an array's items."""
    kind = pa.binary(records.dtype.itemsize)
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(records), [None, pa.py_buffer(records)]).cast(pa.binary())


def _bools(column: pa.Array, *, if_null: bool = False) -> NDArray[np.bool_]:
    values: NDArray[np.bool_] = column.fill_null(if_null).to_numpy(zero_copy_only=False)
    return values
