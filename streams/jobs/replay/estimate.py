"""What a replay with knowledge would cost in tokens and time, from a sample of its records and of past answers.

Owns the sampling and the arithmetic. Must not ask a model, nor load one: whether another version's answer may be used
again hangs on prompts and model, so the estimate is a range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import mean
from typing import Any

from freshet.connect import Client, keys_for
from freshet.records import Item, ItemKnowledge
from processors.items.item_text import content_fingerprint
from schemas.codec import Codec, DecodeError
from streams.kafka.ranges import NoTopic, Range, RangeReader
from streams.settings import Settings

PLACES, EACH = 5, 100
"""Looked at in each partition: so many stretches of so many records, evenly over the range."""
_ANSWERS = 200
"""Newest records of knowledge looked at in each partition."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """For `records` at most: how many need the model, from `fewest` to `most`, and what one such costs.

    `fewest`: if what other versions know may be used again (same prompts, same model); `most`: if not. `tokens` and
    `seconds` are those of one item, None where none was ever distilled; `sampled` records and `answers` are behind it.
    """

    records: int
    sampled: int
    fewest: int
    most: int
    answers: int
    tokens: float | None = None
    seconds: float | None = None
    at_once: int = 1

    @property
    def token_range(self) -> tuple[int, int] | None:
        """Tokens of it all."""
        if self.tokens is None:
            return None
        return round(self.fewest * self.tokens), round(self.most * self.tokens)

    @property
    def second_range(self) -> tuple[float, float] | None:
        """Seconds of the model's work, with as many items at once as the settings allow."""
        if self.seconds is None:
            return None
        each = self.seconds / self.at_once
        return self.fewest * each, self.most * each


def estimate(
    settings: Settings, client: Client, codec: Codec, version: str, versions: Sequence[str], ranges: Sequence[Range]
) -> Estimate:
    """The cost of distilling these ranges of `items` into `version`, one of `versions`. Raises `KafkaException`."""
    items = _sample_items(settings, codec, ranges)
    known, own = _known(settings, client, items, version, versions)
    records = sum(map(len, ranges))
    share = records / len(items) if items else 0.0
    answers = _answers(settings, codec, ranges)
    return Estimate(
        records=records,
        sampled=len(items),
        fewest=round(share * (len(items) - known)),
        most=round(share * (len(items) - own)),
        answers=len(answers),
        tokens=mean(one.provenance.tokens_in + one.provenance.tokens_out for one in answers) if answers else None,
        seconds=mean(one.provenance.latency_seconds for one in answers) if answers else None,
        at_once=settings.llm.concurrency,
    )


def _sample_items(settings: Settings, codec: Codec, ranges: Sequence[Range]) -> list[Item | None]:
    """Items of evenly spread stretches; None for a record that costs nothing: a deletion, or none that decodes."""
    found: list[Item | None] = []
    with RangeReader(settings) as reader:
        for place in range(PLACES):
            stretches = []
            for one in ranges:
                first = one.first + len(one) * place // PLACES
                end = one.first + len(one) * (place + 1) // PLACES
                stretches.append(replace(one, first=first, end=min(end, first + EACH)))
            for messages in reader.batches(stretches):
                found += [_item(codec, message.value()) for message in messages]
    return found


def _item(codec: Codec, value: bytes | None) -> Item | None:
    try:
        return None if value is None else codec.decode(Item, value)
    except DecodeError:
        return None


def _known(
    settings: Settings, client: Any, items: Sequence[Item | None], version: str, versions: Sequence[str]
) -> tuple[int, int]:
    """How many of `items` cost nothing if any version's answer counts, and if only this version's does."""
    keys = keys_for(client, settings.key_prefix)
    names = list(dict.fromkeys([version, *versions]))
    pipeline = client.pipeline(transaction=False)
    contents = [content_fingerprint(item) for item in items if item is not None]
    for content in contents:
        for name in names:
            pipeline.exists(keys.content_pointer(name, content))
    there = pipeline.execute() if contents else []
    rows = [there[start : start + len(names)] for start in range(0, len(there), len(names))]
    free = len(items) - len(contents)
    seen: set[str] = set()
    known = own = free
    for content, row in zip(contents, rows, strict=True):
        again = content in seen  # the second of the same content costs nothing either way
        seen.add(content)
        known += bool(again or any(row))
        own += bool(again or row[0])
    return known, own


def _answers(settings: Settings, codec: Codec, ranges: Sequence[Range]) -> list[ItemKnowledge]:
    """The newest knowledge that a model was asked for."""
    if not ranges:
        return []
    topic = f"{settings.topic_prefix}item-knowledge"
    found = []
    with RangeReader(settings) as reader:
        try:
            ends = [replace(one, first=max(one.first, one.end - _ANSWERS)) for one in reader.find(topic)]
        except NoTopic:
            return []
        for message in chain.from_iterable(reader.batches(ends)):
            try:
                one = codec.decode(ItemKnowledge, message.value() or b"")
            except DecodeError:
                continue
            if one.provenance.origin == "fresh" and one.provenance.calls:
                found.append(one)
    return found
