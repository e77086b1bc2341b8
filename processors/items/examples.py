"""Worked examples: items with the answers they should get, and the choice of those nearest to an item.

Owns the bank and the choice. Must not know prompts, nor read files other than the bank that comes with the package.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any

import numpy as np

from freshet.records import Item
from models.encoder.encoder import TextEncoder, Vectors
from processors.items.attribute_catalogue import AttributeCatalogue
from processors.items.knowledge_text import item_text
from processors.items.prompt_text import clean, digest, used_fields
from processors.items.quotes import Source

CATALOGUE_ANALYST = "catalogue_analyst"
SHOWN_DESCRIPTION = 300
"""Characters of an example's description: an example teaches a form, and every token of it is paid for per item."""
FEW = 32
"""Of so few examples the chosen ones stand in the bank's order: prompts then share a longer cached prefix."""


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """An item and, by agent, the answer it should get; `category` is the catalogue's, "" without one.

    `product` is what several offers may be of, "" where nobody knows.
    """

    example_id: str
    item: Item
    answers: Mapping[str, Mapping[str, Any]]
    category: str = ""
    product: str = ""


class ExampleBank:
    """Examples, and those nearest to an item by the encoder's vectors (the first ones where there is no encoder).

    `products` names the product of an item, by item id, where it is known: its other offers are no examples for it.
    """

    def __init__(
        self,
        examples: Iterable[Example],
        encoder: TextEncoder | None = None,
        *,
        products: Mapping[str, str] | None = None,
    ) -> None:
        self.examples: tuple[Example, ...] = tuple(examples)
        self._products = products or {}
        self._encoder = encoder
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all that the bank may show."""
        shown = [(one.example_id, used_fields(one.item), one.answers, one.category) for one in self.examples]
        return digest(shown, self._encoder.revision if self._encoder else "")

    def nearest(self, item: Item, agent: str, count: int, category: str = "") -> list[Example]:
        """Up to `count` examples of `agent` (of `category`); never one of the item's own product or title.

        The nearest comes last; of a bank of `FEW` they come in its order. Blocks while it encodes: call from a thread.
        """
        own, product = _title(item), self._products.get(item.item_id, "")
        rows = [
            row
            for row, one in enumerate(self.examples)
            if agent in one.answers
            and one.category == category
            and one.item.item_id != item.item_id
            and _title(one.item) != own
            and not (product and one.product == product)
        ]
        if not rows or count <= 0:
            return []
        if self._encoder is None or len(rows) <= 1:
            return [self.examples[row] for row in rows[:count]]
        with self._lock:
            vectors = self._vectors
        near = vectors[rows] @ self._encoder.encode([_text(item)])[0]  # (rows,)
        best = np.argsort(-near, kind="stable")[:count]
        order = sorted(best) if len(rows) <= FEW else reversed(best)
        return [self.examples[rows[place]] for place in order]

    @cached_property
    def _vectors(self) -> Vectors:
        assert self._encoder is not None
        return self._encoder.encode([_text(one.item) for one in self.examples])


def own_examples(encoder: TextEncoder | None = None) -> ExampleBank:
    """The bank that comes with the package: items of many kinds of shop, written for it."""
    rows = json.loads((files("processors") / "prompts" / "examples.json").read_text(encoding="utf-8"))
    return ExampleBank((_own(number, row) for number, row in enumerate(rows)), encoder)


def annotated_examples(
    items: Sequence[Item],
    gold: Sequence[Mapping[str, Sequence[str]]],
    catalogue: AttributeCatalogue,
    encoder: TextEncoder | None = None,
    *,
    products: Sequence[str] = (),
) -> ExampleBank:
    """A bank from items whose attributes people have noted: `gold` names the accepted forms of each, none = absent.

    An example shows the first form that stands in what is shown of its description. Items of no known category are
    left out. `products` names what each is an offer of.
    """
    named = products or [""] * len(items)
    found = (_annotated(*row, catalogue) for row in zip(items, gold, named, strict=True))
    by_item = {item.item_id: product for item, product in zip(items, named, strict=True)}
    return ExampleBank((example for example in found if example is not None), encoder, products=by_item)


def _annotated(
    item: Item, gold: Mapping[str, Sequence[str]], product: str, catalogue: AttributeCatalogue
) -> Example | None:
    category = catalogue.find(item.category)
    if category is None:
        return None
    shown = dataclasses.replace(item, attributes={}, description=clean(item.description, SHOWN_DESCRIPTION))
    source = Source.of(shown.title, shown.brand, shown.description)
    answer = {
        attribute.name: form
        for attribute in category.attributes
        if (form := next((form for form in gold.get(attribute.name, ()) if source.find(form)), ""))
    }
    return Example(item.item_id, shown, {CATALOGUE_ANALYST: answer}, category.name, product)


def _own(number: int, row: Mapping[str, Any]) -> Example:
    fields = row["item"]
    item = Item(
        item_id=f"example-{number}",
        event_time=0,
        title=fields["title"],
        description=fields.get("description", ""),
        brand=fields.get("brand", ""),
        category=tuple(part.strip() for part in fields.get("category", "").split(">") if part.strip()),
        attributes=fields.get("attributes", {}),
    )
    return Example(item.item_id, item, {name: answer for name, answer in row.items() if name != "item"})


def _text(item: Item) -> str:
    """Without category and attributes: an example may lack what an item has."""
    return item_text(dataclasses.replace(item, attributes={}, category=()))


def _title(item: Item) -> str:
    return " ".join(item.title.split()).casefold()
