"""Reads items whose attributes people have noted: gold for an evaluation, worked examples for a prompt.

Owns the gold column's form. Must not know who uses it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freshet.records import Item
from schemas.files import FileError, read_items, read_table

Gold = Mapping[str, Sequence[str]]
"""Accepted forms of each attribute, as they stand in the text; none where the text does not state it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Annotated:
    """An item without its gold, the gold, and the product it is an offer of."""

    item: Item
    gold: Gold
    product: str


def read_annotated(path: Path) -> list[Annotated]:
    """Items with gold attributes; `cluster_id`, where there is one, names the product. Raises `FileError`."""
    table = read_table(path)
    for wanted in ("item_id", "title", "attributes"):
        if wanted not in table.column_names:
            raise FileError(f"{path}: no column {wanted!r}; gold attributes are wanted for an evaluation")
    gold = [_gold(cell, path, row) for row, cell in enumerate(table["attributes"].to_pylist())]
    items = list(read_items(path, default_time=0))
    products = [str(one) for one in table["cluster_id"].to_pylist()] if "cluster_id" in table.column_names else []
    products = products or [item.item_id for item in items]
    bare = (dataclasses.replace(item, attributes={}) for item in items)
    return [Annotated(*row) for row in zip(bare, gold, products, strict=True)]


def _gold(cell: Any, path: Path, row: int) -> Gold:
    try:
        cells = json.loads(cell) if isinstance(cell, str) else dict(cell or {})
        return {
            str(name): [str(form) for form in (forms if isinstance(forms, list) else [forms]) if form not in (None, "")]
            for name, forms in cells.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise FileError(f"{path}: row {row}: attributes are no JSON object of accepted forms ({error})") from error
