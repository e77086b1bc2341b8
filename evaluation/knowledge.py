"""Scores distilled attributes against what people noted: `freshet evaluate knowledge`.

Owns the sample, the measures and the baselines' place beside the team. Must not draw progress, nor know a command line.

An items file has gold attributes as JSON `{attribute: [accepted forms]}`, an empty list where the text does not state
it (WDC-PAVE, arXiv 2403.02130). Each pair of item and attribute falls into one of five boxes, as there: gold absent and
answer absent (NN) or given (NV); gold given and answer absent (VN), right (VC: an accepted form, space and case
aside) or wrong (VW).
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from freshet.records import Item, ItemKnowledge
from models.llm.client import LLMRejected, LLMUnavailable
from processors.items.ask import InvalidKnowledge
from processors.items.attribute_catalogue import AttributeCatalogue
from schemas.annotated import Annotated

TRIES, FIRST_PAUSE_S = 5, 1.0
"""An item whose call finds the endpoint away is asked about again so often, after a pause that doubles."""


class Extractor(Protocol):
    """Who is judged: `processors.items.distiller.Distiller`, or a baseline."""

    async def distill(self, item: Item) -> ItemKnowledge: ...


def split(rows: Sequence[Annotated], limit: int | None, seed: int) -> tuple[list[Annotated], list[Annotated]]:
    """A random sample of `limit` items (all where None), and the rest without the sample's products and titles.

    The sample depends on `seed` and the item ids, not on the order of the file.
    """
    ordered = sorted(rows, key=lambda row: row.item.item_id)
    chosen = ordered if limit is None else random.Random(seed).sample(ordered, min(limit, len(ordered)))
    return chosen, without_products(ordered, chosen)


def without_products(rows: Sequence[Annotated], sample: Sequence[Annotated]) -> list[Annotated]:
    """`rows` that are neither of a product nor of a title of `sample`: what may be shown as an example."""
    products = {row.product for row in sample}
    titles = {_form(row.item.title) for row in sample}
    return [row for row in rows if row.product not in products and _form(row.item.title) not in titles]


@dataclasses.dataclass(slots=True)
class Score:
    """The five boxes, in all and by category, and what the answers cost."""

    boxes: Counter[str] = dataclasses.field(default_factory=Counter)
    by_category: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)
    items: int = 0
    failed: int = 0
    calls: int = 0
    tokens: int = 0

    def add(self, row: Annotated, catalogue: AttributeCatalogue, knowledge: ItemKnowledge | None) -> None:
        """Count one item; None where it got no knowledge: all of its answers are absent."""
        category = catalogue.find(row.item.category)
        wanted = [one.name for one in category.attributes] if category else list(row.gold)
        answered = {claim.name: claim.value for claim in knowledge.claims if not claim.inferred} if knowledge else {}
        boxes = Counter(box(row.gold.get(name, ()), answered.get(name, "")) for name in wanted)
        self.boxes += boxes
        self.by_category.setdefault(category.name if category else "", Counter()).update(boxes)
        self.items += 1
        self.failed += knowledge is None
        if knowledge is not None:
            self.calls += knowledge.provenance.calls
            self.tokens += knowledge.provenance.tokens_in + knowledge.provenance.tokens_out

    def summary(self) -> dict[str, float]:
        """The measures by name; per-item figures are over all items of the sample."""
        each = max(1, self.items)
        return {
            **measures(self.boxes),
            "tokens_per_item": round(self.tokens / each, 1),
            "calls_per_item": round(self.calls / each, 3),
            "n_items": self.items,
        }


def box(gold: Sequence[str], answered: str) -> str:
    """Which of NN, NV, VN, VC, VW an answer ("" = absent) falls into."""
    if not gold:
        return "NV" if answered else "NN"
    if not answered:
        return "VN"
    return "VC" if _form(answered) in {_form(form) for form in gold} else "VW"


def measures(boxes: Mapping[str, int]) -> dict[str, float]:
    """Micro precision, recall and F1 over attribute-value pairs; hallucination: the share of absent attributes that
    got an answer; coverage: the share of stated ones that got any.
    """
    absent_said, right, wrong, missed = (boxes.get(name, 0) for name in ("NV", "VC", "VW", "VN"))
    precision = _share(right, right + wrong + absent_said)
    recall = _share(right, right + wrong + missed)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    found = {
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "hallucination": _share(absent_said, absent_said + boxes.get("NN", 0)),
        "coverage": _share(right + wrong, right + wrong + missed),
    }
    return {name: round(value, 4) for name, value in found.items()}


async def evaluate(
    extractor: Extractor,
    rows: Sequence[Annotated],
    catalogue: AttributeCatalogue,
    *,
    concurrency: int,
    done: Callable[[Annotated, ItemKnowledge | None], None] = lambda _row, _knowledge: None,
) -> Score:
    """Ask `extractor` about all of `rows` and score it. An item that fails for good counts as answered with nothing.

    Raises `LLMUnavailable` (after `TRIES`) or `LLMForbidden`: an evaluation with answers missing would be none.
    """
    score, turns = Score(), asyncio.Semaphore(concurrency)

    async def one(row: Annotated) -> None:
        async with turns:
            try:
                knowledge = await _patiently(extractor, row.item)
            except (InvalidKnowledge, LLMRejected):
                knowledge = None
        score.add(row, catalogue, knowledge)
        done(row, knowledge)

    try:
        async with asyncio.TaskGroup() as group:
            for row in rows:
                group.create_task(one(row))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return score


async def _patiently(extractor: Extractor, item: Item) -> ItemKnowledge:
    for attempt in range(TRIES - 1):
        try:
            return await extractor.distill(item)
        except LLMUnavailable as error:
            await asyncio.sleep(error.retry_after_s or FIRST_PAUSE_S * 2**attempt)
    return await extractor.distill(item)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _form(text: str) -> str:
    return " ".join(text.split()).casefold()
