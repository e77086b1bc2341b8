"""Which attributes a platform wants to know of the items of each category: names, definitions and value rules.

Owns the catalogue's columns, how an item's category is found in it, and its identity. Must not read files nor ask a
model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from processors.items.prompt_text import clean, digest

MAX_ATTRIBUTES = 64
"""Of one category: more of them do not fit one answer."""
_MAX_NAME, _MAX_TEXT = 64, 1_000
# Column names as they are met, in small letters with `_` for spaces; the first of each row is ours.
_COLUMNS: dict[str, tuple[str, ...]] = {
    "category": ("category",),
    "attribute": ("attribute", "attribute_name", "name"),
    "definition": ("definition", "human_description", "description"),
    "guideline": ("guideline", "annotation_guideline"),
    "rule": ("rule", "normalization_instruction", "normalisation_instruction", "value_rule"),
    "types": ("types", "data_types"),
}


class CatalogueError(ValueError):
    """Rows that are no attribute catalogue; the message names the row and what is wanted."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One wanted attribute: what it means, how it is read off a listing, and the form its value shall have."""

    name: str
    definition: str = ""
    guideline: str = ""
    rule: str = ""
    types: str = ""


@dataclass(frozen=True, slots=True)
class Category:
    """One category and its attributes, in the catalogue's order."""

    name: str
    attributes: Sequence[Attribute]

    @property
    def path(self) -> tuple[str, ...]:
        """The category as a path, most general first."""
        return tuple(part.strip() for part in self.name.split(">"))

    @property
    def fingerprint(self) -> str:
        """Digest of everything that can change an answer."""
        fields = [
            (attribute.name, attribute.definition, attribute.guideline, attribute.rule, attribute.types)
            for attribute in self.attributes
        ]
        return digest(self.name, fields)


class AttributeCatalogue:
    """Categories by name; finds the one an item names itself."""

    def __init__(self, categories: Iterable[Category]) -> None:
        self.categories: tuple[Category, ...] = tuple(categories)
        self._by_name = {_key(category.name): category for category in self.categories}
        if len(self._by_name) != len(self.categories):
            raise CatalogueError("a category stands twice in the catalogue")

    def __len__(self) -> int:
        return len(self.categories)

    @property
    def fingerprint(self) -> str:
        """Digest of the whole catalogue."""
        return digest([category.fingerprint for category in self.categories])

    def find(self, path: Sequence[str]) -> Category | None:
        """The category an item's own path names: the whole path, else its most special part that the catalogue has."""
        for name in (" > ".join(path), *reversed(path)):
            if (found := self._by_name.get(_key(name))) is not None:
                return found
        return None

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> AttributeCatalogue:
        """From one row an attribute; columns `category` and `attribute`, and if they are there `definition`,
        `guideline`, `rule`, `types` (or the names of WDC-PAVE's catalogue). A row without a category belongs to all.

        Raises `CatalogueError`.
        """
        grouped: dict[str, dict[str, Attribute]] = {}
        for number, row in enumerate(rows):
            cells = _cells(row)
            name = clean(cells["attribute"], _MAX_NAME)
            if not name:
                raise CatalogueError(f"row {number} of the catalogue names no attribute; columns: {', '.join(row)}")
            attributes = grouped.setdefault(clean(cells["category"], 300), {})
            if name in attributes:
                raise CatalogueError(f"row {number} of the catalogue: {name!r} stands twice in {cells['category']!r}")
            texts = (cells[part][:_MAX_TEXT] for part in ("definition", "guideline", "rule", "types"))
            attributes[name] = Attribute(name, *texts)
        if not grouped:
            raise CatalogueError("the catalogue is empty")
        common = grouped.pop("", {}) if len(grouped) > 1 else {}
        found = [Category(name, tuple({**common, **own}.values())) for name, own in grouped.items()]
        for category in found:
            if len(category.attributes) > MAX_ATTRIBUTES:
                count = len(category.attributes)
                raise CatalogueError(f"{category.name!r} wants {count} attributes, at most {MAX_ATTRIBUTES} fit")
        return cls(found)


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    by_name = {str(name).strip().lower().replace(" ", "_"): value for name, value in row.items()}
    return {part: _text(next((by_name[n] for n in names if n in by_name), "")) for part, names in _COLUMNS.items()}


def _text(value: object) -> str:
    if value is None or value != value:  # a CSV's empty cell may come as NaN
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return " ".join(name.replace("&", " and ").split()).casefold()
