"""The baseline of `freshet evaluate knowledge`: one call with the whole schema, no examples, nothing checked.

Owns its prompt. It is what a first attempt looks like, on the same model and the same listings.
"""

from __future__ import annotations

from collections.abc import Callable

from freshet.records import Claim, Item, ItemKnowledge, Provenance
from models.llm.client import CompletionRequest, LanguageModel, Message
from processors.items.ask import InvalidKnowledge, parse
from processors.items.attribute_catalogue import AttributeCatalogue
from processors.items.prompt_text import content_fingerprint, delimited, prompt_text

PROMPT = """\
Extract the attributes of a product from its listing. The product is of the category {category}. \
Answer with one JSON object that gives a value for each attribute, "n/a" where there is none.

Attributes:
{attributes}"""
MAX_TOKENS = 500


class NaiveExtractor:
    """Asks once for every attribute of an item's category and believes the answer; "n/a" is taken as absent."""

    def __init__(self, llm: LanguageModel, clock: Callable[[], int], catalogue: AttributeCatalogue) -> None:
        self._llm, self._clock, self._catalogue = llm, clock, catalogue

    async def distill(self, item: Item) -> ItemKnowledge:
        """Raises `InvalidKnowledge` where the answer is no JSON of the schema, and what the model's client raises."""
        category = self._catalogue.find(item.category)
        if category is None:
            raise InvalidKnowledge(f"{item.category} is no category of the catalogue", "")
        names = [attribute.name for attribute in category.attributes]
        lines = "\n".join(f"- {one.name}: {' '.join(one.definition.split())}" for one in category.attributes)
        value = {"type": "string", "maxLength": 80}
        schema = {
            "type": "object",
            "properties": dict.fromkeys(names, value),
            "required": names,
            "additionalProperties": False,
        }
        messages = [
            Message("system", PROMPT.format(category=category.name, attributes=lines)),
            Message("user", delimited(prompt_text(item))),
        ]
        call = await self._llm.complete(CompletionRequest(messages, schema, "attributes", MAX_TOKENS))
        problem, answer = parse(call, schema)
        if answer is None:
            raise InvalidKnowledge(problem, call.text)
        values = {
            name: value for name, value in answer.items() if value.strip().casefold() not in ("", "n/a", "na", "none")
        }
        return ItemKnowledge(
            item_id=item.item_id,
            event_time=item.event_time,
            computed_time=self._clock(),
            fingerprint="",
            claims=tuple(Claim("attribute", name, value) for name, value in values.items()),
            category=category.path,
            content_fingerprint=content_fingerprint(item),
            provenance=Provenance(
                agents=("naive",),
                model=call.model,
                tokens_in=call.tokens_in,
                tokens_out=call.tokens_out,
                calls=1,
                latency_seconds=call.latency_seconds,
            ),
        )
