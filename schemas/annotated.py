"""Reads items with attributes annotated by people: gold labels for an evaluation, worked examples for a prompt.

Owns the format of the gold column. Must not know which of the two it is used for.
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
"""Accepted forms of each attribute, verbatim from the item text; none if the text does not state it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Annotated:
    """An item without its gold attributes, the gold attributes, and the product that the item is an offer of."""

    item: Item
    gold: Gold
    product: str


def read_annotated(path: Path) -> list[Annotated]:
    """Items with gold attributes; the column `cluster_id`, if present, names the product. Raises `FileError`."""
    table = read_table(path)
    for wanted in ("item_id", "title", "attributes"):
        if wanted not in table.column_names:
            raise FileError(f"{path}: no column {wanted!r}; an evaluation needs gold attributes")
    gold = [_gold(cell, path, row) for row, cell in enumerate(table["attributes"].to_pylist())]
    items = list(read_items(path, default_time=0))
    products = (
        [str(product) for product in table["cluster_id"].to_pylist()] if "cluster_id" in table.column_names else []
    )
    products = products or [item.item_id for item in items]
    # A distiller that saw the attributes would only have to copy them.
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
        raise FileError(f"{path}: row {row}: attributes are not a JSON object of accepted forms ({error})") from error
