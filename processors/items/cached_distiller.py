"""Distil only what has not been distilled: cached knowledge, knowledge of a near-duplicate, and only then a model.

Owns the order of the three, and that two items of one content ask once. Must not know where the cache is, nor what a
near-duplicate is (`processors/items/near_duplicates.py`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from freshet.records import Item, ItemKnowledge
from models.llm.client import LLMUnavailable
from processors.items.item_text import content_fingerprint
from processors.items.near_duplicates import share, sharing_key

# Results that are made and not yet in the cache; a few windows of a lane, a few kilobytes each.
_UNCONFIRMED = 1_024


class CachedKnowledge(Protocol):
    """A cached row and how it was found: "content", "fingerprint" or "sharing"."""

    @property
    def knowledge(self) -> ItemKnowledge: ...

    @property
    def how(self) -> str: ...


class Cache(Protocol):
    """Where knowledge is kept, such as `store.knowledge_cache.KnowledgeCache`; both calls block."""

    def find(self, version: str, content: str, fingerprint: str, sharing: str = "") -> CachedKnowledge | None:
        """What `version` knows of some content, else of its fingerprint, else under a sharing key."""
        ...

    def put(self, records: Iterable[ItemKnowledge], sharing: Mapping[str, str] | None = None) -> None:
        """Keep records; `sharing` maps item ids to sharing keys."""
        ...


class FreshDistiller(Protocol):
    """Who asks the model: `processors.items.distiller.Distiller`."""

    def fingerprint(self, item: Item) -> str: ...

    async def identify(self) -> None: ...

    async def distill(self, item: Item, *, source_partition: int = -1, source_offset: int = -1) -> ItemKnowledge: ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """One item and its identities; `flight` is what items that share one answer have in common."""

    item: Item
    partition: int
    offset: int
    content: str
    fingerprint: str
    sharing: str

    @property
    def flight(self) -> str:
        return self.sharing or self.content


class CachedDistiller:
    """A `Distiller` that asks only once for the same content, and once for near-duplicates where `sharing` is on.

    1. `known` answers from the cache alone: one round trip, never a model;
    2. `distill` looks there too, then asks the model; who comes meanwhile with the same content waits for that answer;
    3. `remember` puts knowledge into the cache, once it is confirmed in Kafka.

    Inside a version cached knowledge stays valid whatever became of prompts and model; a new version reuses it only
    under the same fingerprint. Errors are the distiller's and the cache's: without the cache nothing is distilled.
    """

    def __init__(
        self,
        distiller: FreshDistiller,
        cache: Cache,
        version: str,
        clock: Callable[[], int],
        *,
        sharing: bool = True,
    ) -> None:
        self._distiller = distiller
        self._cache = cache
        self._version = version
        self._clock = clock
        self._sharing = sharing
        self._flights: dict[str, asyncio.Future[ItemKnowledge]] = {}
        self._unconfirmed: OrderedDict[str, ItemKnowledge] = OrderedDict()

    def fingerprint(self, item: Item) -> str:
        """See `Distiller.fingerprint`."""
        return self._distiller.fingerprint(item)

    async def known(self, item: Item, *, source_partition: int = -1, source_offset: int = -1) -> ItemKnowledge | None:
        """Knowledge of `item` that costs nothing, or None where a model must be asked."""
        return await self._known(self._asked(item, source_partition, source_offset))

    async def distill(self, item: Item, *, source_partition: int = -1, source_offset: int = -1) -> ItemKnowledge:
        """Knowledge of one item, the cheapest way; see `Distiller.distill` for what it raises."""
        await self._distiller.identify()  # else the first item of a new version would not find the old one's answer
        asked = self._asked(item, source_partition, source_offset)
        while True:
            if (known := await self._known(asked)) is not None:
                return known
            flight = self._flights.get(asked.flight)
            if flight is None:
                return await self._lead(asked)
            await asyncio.wait([flight])  # not `await flight`: its failure is not ours, our cancellation not its
            if flight.cancelled() or isinstance(flight.exception(), LLMUnavailable):
                continue  # nobody's fault: one of those who wait leads
            if flight.exception() is not None or self._reused(flight.result(), asked) is None:
                return await self._fresh(asked)  # the leader's own fault, or an answer that does not fit this item

    async def remember(self, item: Item, knowledge: ItemKnowledge) -> None:
        """Keep confirmed knowledge of `item`; putting a cached one again prolongs its life."""
        key = self._sharing_key(item)
        sharing = {item.item_id: key} if key else {}
        await asyncio.to_thread(self._cache.put, [knowledge], sharing)
        for name in (knowledge.content_fingerprint, key):
            made = self._unconfirmed.get(name)
            if made is not None and made.fingerprint == knowledge.fingerprint:
                del self._unconfirmed[name]

    def _asked(self, item: Item, partition: int, offset: int) -> _Asked:
        fingerprint = self._distiller.fingerprint(item)
        return _Asked(item, partition, offset, content_fingerprint(item), fingerprint, self._sharing_key(item))

    def _sharing_key(self, item: Item) -> str:
        return sharing_key(item) if self._sharing else ""

    async def _known(self, asked: _Asked) -> ItemKnowledge | None:
        for name in (asked.content, asked.flight):
            if (made := self._unconfirmed.get(name)) and (reused := self._reused(made, asked)):
                return reused
        found = await asyncio.to_thread(
            self._cache.find, self._version, asked.content, asked.fingerprint, asked.sharing
        )
        if found is None:
            return None
        known = found.knowledge
        if found.how == "fingerprint" and known.provenance.shared_from and not self._sharing:
            return None  # another version shared it; this one was told not to
        return self._shared(known, asked) if found.how == "sharing" else self._again(known, asked)

    async def _lead(self, asked: _Asked) -> ItemKnowledge:
        """Ask the model for all who wait; whatever happens, they are told."""
        flight: asyncio.Future[ItemKnowledge] = asyncio.get_running_loop().create_future()
        self._flights[asked.flight] = flight
        try:
            knowledge = await self._fresh(asked)
        except asyncio.CancelledError:
            flight.cancel()
            raise
        except BaseException as error:
            flight.set_exception(error)
            flight.exception()  # seen: where nobody waits, asyncio would complain
            raise
        else:
            flight.set_result(knowledge)
            return knowledge
        finally:
            del self._flights[asked.flight]

    async def _fresh(self, asked: _Asked) -> ItemKnowledge:
        made = await self._distiller.distill(asked.item, source_partition=asked.partition, source_offset=asked.offset)
        made = replace(made, content_fingerprint=asked.content, version=self._version)
        for name in {asked.content, asked.flight}:
            self._unconfirmed[name] = made
        while len(self._unconfirmed) > _UNCONFIRMED:
            self._unconfirmed.popitem(last=False)
        return made

    def _reused(self, made: ItemKnowledge, asked: _Asked) -> ItemKnowledge | None:
        same = made.content_fingerprint == asked.content
        return self._again(made, asked) if same else self._shared(made, asked)

    def _shared(self, known: ItemKnowledge, asked: _Asked) -> ItemKnowledge | None:
        """Another item's knowledge as `asked`'s, or None where too little of it stands in this item's text."""
        kept = share(known, asked.item)
        if kept is None:
            return None
        reused = self._again(replace(kept, fingerprint=asked.fingerprint), asked)
        return replace(reused, provenance=replace(reused.provenance, origin="shared", shared_from=known.item_id))

    def _again(self, known: ItemKnowledge, asked: _Asked) -> ItemKnowledge:
        """The same knowledge for another record; it cost this one nothing."""
        return replace(
            known,
            item_id=asked.item.item_id,
            event_time=asked.item.event_time,
            computed_time=self._clock(),
            source_partition=asked.partition,
            source_offset=asked.offset,
            content_fingerprint=asked.content,
            version=self._version,
            provenance=replace(
                known.provenance, origin="cache", tokens_in=0, tokens_out=0, calls=0, latency_seconds=0.0
            ),
        )
