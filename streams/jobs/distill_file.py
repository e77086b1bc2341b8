"""Distills a list of items into a file, and goes on where an earlier run stopped.

Owns what is still to do, the calls under way at once, and which outcome goes where. Must not know Kafka or Redis, nor
draw progress: a `Watcher` does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from freshet.records import Item, ItemKnowledge
from processors.items.cached_distiller import CachedDistiller, FreshDistiller
from processors.items.near_duplicates import sharing_key
from processors.validate import check_item
from schemas.knowledge_file import KnowledgeFile
from streams.backoff import Backoff
from streams.errors import Family, family, reason
from streams.metrics import Metrics

NAME = "distill"
LONGEST_PAUSE_S = 30.0
T = TypeVar("T")


class Watcher(Protocol):
    """Shows how a run goes."""

    def item(self, tally: DistillCounts) -> None:
        """The run begins, or one more item is through."""
        ...

    def waiting(self, cause: str) -> None:
        """The endpoint is away for the reason given; "" when it is back. May be called with the same twice."""
        ...


@dataclasses.dataclass(slots=True)
class DistillCounts:
    """What came of a run. `there` items needed nothing; the others are fresh, cache, shared or failed."""

    items: int = 0
    there: int = 0
    fresh: int = 0
    cache: int = 0
    shared: int = 0
    failed: int = 0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    complete: bool = False

    @property
    def made(self) -> int:
        """Items this run brought to knowledge."""
        return self.fresh + self.cache + self.shared

    @property
    def left(self) -> int:
        """Items nobody has tried yet."""
        return self.items - self.there - self.made - self.failed

    @property
    def per_second(self) -> float:
        """Items tried a second."""
        return (self.made + self.failed) / self.seconds if self.seconds > 0 else 0.0

    def add(self, knowledge: ItemKnowledge) -> None:
        """Count one success."""
        cost = knowledge.provenance
        match cost.origin:
            case "cache":
                self.cache += 1
            case "shared":
                self.shared += 1
            case _:
                self.fresh += 1
        self.calls += cost.calls
        self.tokens_in += cost.tokens_in
        self.tokens_out += cost.tokens_out


def chosen(items: Iterable[Item], limit: int | None = None, seed: int = 0) -> list[Item]:
    """Each item once, its last row counting, in the file's order; `limit` of them drawn with `seed`."""
    by_id = {item.item_id: item for item in items}
    found = list(by_id.values())
    if limit is None or limit >= len(found):
        return found
    rows = random.Random(seed).sample(range(len(found)), limit)
    return [found[row] for row in sorted(rows)]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """What `MemoryCache` found, and how."""

    knowledge: ItemKnowledge
    how: str


class MemoryCache:
    """A `cached_distiller.Cache` for one run: what the file holds of this configuration, found again without a call."""

    def __init__(self) -> None:
        self._rows: dict[str, ItemKnowledge] = {}
        self._shared: dict[str, ItemKnowledge] = {}

    def find(self, version: str, content: str, fingerprint: str, sharing: str = "") -> Row | None:
        """By fingerprint, else by sharing key; what another configuration made of it does not count."""
        if (known := self._rows.get(fingerprint)) is not None:
            return Row(known, "fingerprint")
        known = self._shared.get(sharing) if sharing else None
        return None if known is None else Row(known, "sharing")

    def put(self, records: Iterable[ItemKnowledge], sharing: Mapping[str, str] | None = None) -> None:
        """Keep records; the first of near-duplicates is what they share, never what was shared itself."""
        for one in records:
            self._rows[one.fingerprint] = one
            if (key := (sharing or {}).get(one.item_id)) and not one.provenance.shared_from:
                self._shared.setdefault(key, one)


class OfflineRun:
    """One run over `items` into `file`; `tally` is right at any time, also after a run was cut off.

    An item whose last record bears the fingerprint that `distiller` gives it needs nothing. The rest costs a call only
    where neither its content nor, with `sharing`, a near-duplicate is known.
    """

    def __init__(
        self,
        items: Sequence[Item],
        file: KnowledgeFile,
        distiller: FreshDistiller,
        watcher: Watcher,
        clock: Callable[[], int],
        tally: DistillCounts | None = None,
        *,
        concurrency: int,
        version: str = "",
        sharing: bool = True,
    ) -> None:
        self._file = file
        self._watcher = watcher
        self._clock = clock
        self._concurrency = concurrency
        self._cache = MemoryCache()
        self._distiller = CachedDistiller(distiller, self._cache, version, clock, sharing=sharing)
        self._sharing = sharing
        self._backoff = Backoff(NAME, Metrics(), most_s=LONGEST_PAUSE_S)
        there = file.fingerprints()
        wanted = {item.item_id: distiller.fingerprint(item) for item in items}
        self._done = {item.item_id: item for item in items if there.get(item.item_id) == wanted[item.item_id]}
        self._to_do = [item for item in items if item.item_id not in self._done]
        self.tally = tally or DistillCounts()
        self.tally.items, self.tally.there = len(items), len(self._done)

    async def run(self) -> DistillCounts:
        """Distill what is left. Waits for an endpoint that is away; raises what no retry mends, and cancellation.

        Whatever ends it, what was made is in the file.
        """
        began = time.monotonic()
        if self._to_do:
            self._recall()
        queue = iter(self._to_do)
        self._watcher.item(self.tally)

        async def work() -> None:
            for item in queue:  # one iterator for all: each item is taken once
                await self._one(item)
                self.tally.seconds = time.monotonic() - began
                self._watcher.item(self.tally)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, len(self._to_do))):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None  # one error ends the others: the first says what happened
        finally:
            self.tally.seconds = time.monotonic() - began
        self.tally.complete = True
        return self.tally

    def _recall(self) -> None:
        """Put what earlier runs made into the cache, for new items of the same content."""
        for known in self._file.known(self._done):
            key = sharing_key(self._done[known.item_id]) if self._sharing else ""
            self._cache.put([known], {known.item_id: key})

    async def _one(self, item: Item) -> None:
        try:
            # The same contract as in the stream; a catalogue's times may lie ahead, as nothing is ordered by them.
            check_item(item, self._clock(), math.inf)
            knowledge = await self._backoff.persevere(lambda: self._ask(item))
        except Exception as error:
            if family(error) is not Family.POISON:
                raise
            self._file.add_failure(item, self._distiller.fingerprint(item), error, reason=reason(error))
            self.tally.failed += 1
        else:
            self._file.add(knowledge)
            self.tally.add(knowledge)
            await self._distiller.remember(item, knowledge)

    async def _ask(self, item: Item) -> ItemKnowledge:
        return await watched(lambda: self._distiller.distill(item), self._watcher)


async def watched(operation: Callable[[], Awaitable[T]], watcher: Watcher) -> T:
    """Run `operation`; the watcher shows whether the endpoint is away."""
    try:
        result = await operation()
    except Exception as error:
        if family(error) is Family.TRANSIENT:
            watcher.waiting(str(error) or type(error).__name__)
        raise
    watcher.waiting("")
    return result
