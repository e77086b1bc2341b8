"""An events file, an items file and a knowledge file as the cold-start question they hold.

Owns which events and items count and the encoding of texts. Must not compare anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from freshet.records import Item, ItemKnowledge
from models.encoder.cold_items import ColdBuyers, ColdConfig, ColdItems, cold_buyers, cold_items
from models.encoder.encoder import TextEncoder, Vectors
from models.reasoner.sequences import Ints, TrainingEvents, TrainingLog, code
from schemas.files import read_events, read_items
from schemas.knowledge_file import read_knowledge


@dataclass(frozen=True, slots=True, eq=False)
class ColdData:
    """Rows are items, or titles where `by_title` made one row of all known items of a title.

    `items[r]` stands for row r; `split` in milliseconds; `past` are the events before it.
    """

    items: Sequence[Item]
    knowledge: Mapping[str, ItemKnowledge]
    log: TrainingLog
    split: int
    question: ColdItems
    buyers: ColdBuyers

    @property
    def past(self) -> TrainingLog:
        """What may be learned from."""
        return self.log.take(self.log.times < self.split)

    @property
    def groups(self) -> list[str]:
        """The title of each cold item, for a bootstrap over titles."""
        return [self.items[row].title for row in self.question.cold]


def milliseconds(day: str) -> int:
    """Midnight (UTC) of an ISO date."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1_000)


def load(
    items: Path,
    events: Path,
    knowledge: Path | None,
    *,
    split: str,
    config: ColdConfig,
    event_type: str = "purchase",
    by_title: bool = False,
) -> ColdData:
    """Read the files; `split` is an ISO date. Items that say of themselves `is_product: false` are left out.

    Attributes are dropped: those of `online_retail_2011` (median price, first seen) come from the whole log, the truth
    included.

    `by_title` makes one row of all items of one title that were first seen before the split: in a shop whose titles
    name a kind of thing ("YOGURT MULTI-PACKS") single products meet too rarely for a truth.
    """
    catalogue = {item.item_id: item for item in read_items(items, default_time=0)}
    table = read_events(events)
    table = table.filter(pc.equal(table["event_type"], event_type))
    wanted = {key for key, item in catalogue.items() if item.title and item.attributes.get("is_product") != "false"}
    table = table.filter(pc.is_in(table["item_id"], pa.array(sorted(wanted))))
    times = table["event_time"].to_numpy().astype(np.int64)
    ids = table["item_id"].to_pylist()
    timestamp = milliseconds(split)
    of_row, rows = _rows(ids, times, catalogue, timestamp, by_title=by_title)
    log = code(TrainingEvents(table["user_id"].to_pylist(), ids, times), rows)
    question = cold_items(log, len(of_row), timestamp, config)
    known = {} if knowledge is None else {record.item_id: record for record in read_knowledge(knowledge)}
    return ColdData(of_row, known, log, timestamp, question, cold_buyers(log, question, len(of_row), timestamp))


def _rows(
    ids: Sequence[str], times: Ints, catalogue: Mapping[str, Item], split: int, *, by_title: bool
) -> tuple[list[Item], list[int]]:
    first: dict[str, int] = {}
    for item_id, time in zip(ids, times.tolist(), strict=True):
        first[item_id] = min(time, first.get(item_id, time))
    place: dict[str, int] = {}
    rows: dict[str, int] = {}
    of_row: list[Item] = []
    for item_id in sorted(first):
        shared = by_title and first[item_id] < split
        name = f"title {catalogue[item_id].title}" if shared else f"item {item_id}"
        if name not in place:
            place[name] = len(of_row)
            of_row.append(replace(catalogue[item_id], attributes={}))
        rows[item_id] = place[name]
    return of_row, [rows[item_id] for item_id in ids]


def encode(texts: Sequence[str], encoder: TextEncoder) -> Vectors:
    """Vectors of lower-cased `texts`: shops that shout say nothing by it."""
    return encoder.encode([text.lower() for text in texts])
