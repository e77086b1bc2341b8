"""Reads catalogues and event logs from parquet, CSV or JSON lines files into the records and columns of the contracts.

Owns which column names are understood and how a cell becomes a field. Must not know what the rows are for. A row that
cannot be read is an error that names it; no row is dropped silently.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from freshet.records import Item

EVENT_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_type", pa.string()),
        ("event_time", pa.int64()),
        ("event_id", pa.string()),
        ("value", pa.float64()),
    ]
)
_TIME_COLUMNS = ("event_time", "timestamp", "updated_at")


class FileError(ValueError):
    """A file cannot be read; the message names the file, the column or row, and what is wanted there."""


def read_table(path: Path) -> pa.Table:
    """Read a parquet (`.parquet`), CSV (`.csv`) or JSON lines (anything else) file whole; raises `FileError`."""
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        if path.suffix == ".csv":
            # Descriptions contain line feeds; Arrow splits quoted cells at them unless told not to.
            return pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True))
        return pyarrow.json.read_json(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise FileError(f"{path}: not readable as parquet, CSV or JSON lines ({error})") from error


def read_events(path: Path) -> pa.Table:
    """Read an event log as a table of `EVENT_SCHEMA`: ids as text, `event_time` in milliseconds, in file order.

    Requires columns `user_id`, `item_id` and one of `event_time`, `timestamp`, `updated_at`; `event_type` (default
    "view"), `event_id` and `value` are optional. Raises `FileError` with the row number if a user, item or time is
    missing.
    """
    return events_table(read_table(path), str(path))


def events_table(table: pa.Table, name: str) -> pa.Table:
    """Convert a table with the columns of an event log to `EVENT_SCHEMA`; errors call it `name`."""
    for wanted in ("user_id", "item_id"):
        if wanted not in table.column_names:
            raise FileError(f"{name}: no column {wanted!r}; it has {', '.join(table.column_names)}")
    rows = table.num_rows
    columns = {
        "user_id": _text(table["user_id"]),
        "item_id": _text(table["item_id"]),
        "event_type": _optional(table, "event_type", pa.string(), "view"),
        "event_time": _milliseconds(_time_column(table, name), name),
        "event_id": _optional(table, "event_id", pa.string(), ""),
        "value": table["value"].cast(pa.float64()) if "value" in table.column_names else pa.nulls(rows, pa.float64()),
    }
    for required in ("user_id", "item_id", "event_time"):
        missing = columns[required].is_null()
        if pc.any(missing).as_py():
            row = pc.index(missing, True).as_py()
            raise FileError(f"{name}: row {row} has no {required}")
    return pa.table(columns, schema=EVENT_SCHEMA)


def read_items(path: Path, *, default_time: int | None = None) -> Iterator[Item]:
    """Read a catalogue as items.

    Requires `item_id` and `title`; `description`, `brand`, `category` (text, "a > b" path or list), `attributes` (JSON
    object as text, or a struct), `price` and a time column are optional. `default_time` (milliseconds) is used for rows
    without a time. Raises `FileError` with the row number for a row that cannot be read.
    """
    table = read_table(path)
    for wanted in ("item_id", "title"):
        if wanted not in table.column_names:
            raise FileError(f"{path}: no column {wanted!r}; it has {', '.join(table.column_names)}")
    times: list[int | None] = [default_time] * table.num_rows
    if any(column in table.column_names for column in _TIME_COLUMNS):
        times = _milliseconds(_time_column(table, str(path)), str(path)).to_pylist()
    ids = _text(table["item_id"]).to_pylist()
    # Times and ids were converted above, as whole columns: as Python objects they would lose unit and type.
    plain = table.select([c for c in table.column_names if c not in (*_TIME_COLUMNS, "item_id")])
    row = -1
    for batch in plain.to_batches():
        for cells in batch.to_pylist():
            row += 1
            event_time = times[row] if times[row] is not None else default_time
            if ids[row] is None or event_time is None:
                raise FileError(f"{path}: row {row} has no {'item_id' if ids[row] is None else 'event_time'}")
            try:
                yield _item(ids[row], event_time, cells)
            except (ValueError, TypeError) as error:
                raise FileError(f"{path}: row {row} (item {ids[row]}): {error}") from error


def _item(item_id: str, event_time: int, cells: Mapping[str, Any]) -> Item:
    category = cells.get("category") or ()
    if isinstance(category, str):
        category = [part.strip() for part in category.split(">")]
    attributes = cells.get("attributes") or {}
    if isinstance(attributes, str):
        attributes = json.loads(attributes)
    if not isinstance(attributes, Mapping):
        raise ValueError(f"attributes must be a JSON object, not {type(attributes).__name__}")
    price = cells.get("price")  # pandas writes a missing one as NaN
    return Item(
        item_id=item_id,
        event_time=event_time,
        title=_cell(cells.get("title")),
        description=_cell(cells.get("description")),
        brand=_cell(cells.get("brand")),
        category=tuple(_cell(part) for part in category if part),
        attributes={str(k): v if isinstance(v, str) else json.dumps(v) for k, v in attributes.items() if v is not None},
        price=None if price is None or math.isnan(float(price)) else float(price),
    )


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as text; ids may be of any scalar type, and 12.0 becomes "12"."""
    if pa.types.is_floating(column.type):  # pandas turns an int column with a gap into floats
        whole = pc.all(pc.equal(column, pc.floor(column))).as_py()
        column = column.cast(pa.int64()) if whole else column
    return column.cast(pa.string())


def _optional(table: pa.Table, name: str, kind: pa.DataType, default: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        return pa.chunked_array([pa.array([default]).take(pa.array([0] * table.num_rows, pa.int64()))])
    return pc.fill_null(table[name].cast(kind), default)


def _time_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    for column in _TIME_COLUMNS:
        if column in table.column_names:
            return table[column]
    raise FileError(f"{name}: no time column; wanted one of {', '.join(_TIME_COLUMNS)}")


def _milliseconds(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A time column as int64 milliseconds (UTC): timestamps of any unit, ISO 8601 text, or numbers of milliseconds."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            column = column.cast(pa.timestamp("us"))
        except pa.ArrowInvalid as error:
            raise FileError(f"{name}: a time is neither a timestamp nor ISO 8601 text ({error})") from error
    if pa.types.is_timestamp(column.type):
        # Unsafe casts truncate microseconds; a safe one would refuse the file for them.
        return column.cast(pa.timestamp("ms", tz=column.type.tz), safe=False).cast(pa.int64())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column.cast(pa.int64(), safe=False)
    raise FileError(f"{name}: time column of type {column.type}, wanted a timestamp, ISO text or milliseconds")
