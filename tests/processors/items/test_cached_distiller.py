"""Asking once: cache, near-duplicates, and many who ask at the same moment."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import pytest

from freshet.records import Claim, Item, ItemKnowledge, Provenance
from models.llm.client import LLMUnavailable
from processors.items.cached_distiller import CachedDistiller
from processors.items.distiller import InvalidKnowledge
from processors.items.item_text import content_fingerprint, digest
from processors.items.near_duplicates import sharing_key
from tests.support.fakes import NOW_MS, FakeClock

RED = Item("red", 5, "Acme Oxford Shirt - Red, XL", brand="Acme", price=3.0)
BLUE = Item("blue", 6, "Acme Oxford Shirt - Blue, M", brand="Acme")
LAMP = Item("lamp", 7, "Desk Lamp DL-40", brand="Lumo")


class FakeDistiller:
    """Counts what it is asked; `recipe` is its prompt, `troubles` are raised first, `gate` holds answers back."""

    def __init__(self, distillation: str = "r1") -> None:
        self.distillation = distillation
        self.asked: list[str] = []
        self.troubles: deque[Exception] = deque()
        self.gate: asyncio.Event | None = None

    async def identify(self) -> None:
        """Its name is known."""

    def fingerprint(self, item: Item) -> str:
        return digest(content_fingerprint(item), self.distillation)

    async def distill(self, item: Item, *, source_partition: int = -1, source_offset: int = -1) -> ItemKnowledge:
        self.asked.append(item.item_id)
        if self.gate is not None:
            await self.gate.wait()
        if self.troubles:
            raise self.troubles.popleft()
        return ItemKnowledge(
            item.item_id,
            item.event_time,
            NOW_MS,
            self.fingerprint(item),
            f"by {self.distillation}",
            (Claim("attribute", "brand", item.brand, item.brand), Claim("attribute", "colour", "Red", "Red")),
            Provenance(("a",), {}, "m", "", 100, 50, 2, 1.0),
            source_partition,
            source_offset,
        )


@dataclass
class Row:
    knowledge: ItemKnowledge
    how: str


class FakeCache:
    """`store.knowledge_cache.KnowledgeCache` in memory; `trouble` is raised by the next call."""

    def __init__(self) -> None:
        self.rows: dict[str, ItemKnowledge] = {}
        self.pointers: dict[tuple[str, str], str] = {}
        self.trouble: Exception | None = None

    def find(self, version: str, content: str, fingerprint: str, sharing: str = "") -> Row | None:
        if self.trouble:
            raise self.trouble
        ways = ("content", self.pointers.get((version, content))), ("fingerprint", fingerprint)
        for how, name in (*ways, ("sharing", self.pointers.get((version, sharing)))):
            if name in self.rows:
                return Row(self.rows[name], how)
        return None

    def put(self, records: Iterable[ItemKnowledge], sharing: Mapping[str, str] | None = None) -> None:
        for one in records:
            self.rows[one.fingerprint] = one
            self.pointers[one.version, one.content_fingerprint] = one.fingerprint
            if (key := (sharing or {}).get(one.item_id)) and not one.provenance.shared_from:
                self.pointers[one.version, key] = one.fingerprint


@pytest.fixture
def cache() -> FakeCache:
    return FakeCache()


def cached_distiller(
    distiller: FakeDistiller, cache: FakeCache, version: str = "v1", *, sharing: bool = True
) -> CachedDistiller:
    return CachedDistiller(distiller, cache, version, FakeClock(), sharing=sharing)


async def distilled(one: CachedDistiller, item: Item) -> ItemKnowledge:
    knowledge = await one.distill(item, source_partition=1, source_offset=2)
    await one.remember(item, knowledge)
    return knowledge


async def test_fresh_knowledge_carries_its_content_and_version(cache: FakeCache) -> None:
    """Catches a record from which the cache cannot be made again."""
    knowledge = await distilled(cached_distiller(FakeDistiller(), cache), RED)
    assert (knowledge.content_fingerprint, knowledge.version) == (content_fingerprint(RED), "v1")
    assert (knowledge.provenance.origin, knowledge.provenance.calls) == ("fresh", 2)


async def test_the_same_content_costs_nothing_and_is_the_new_records(cache: FakeCache) -> None:
    """Catches tokens for a new price, costs counted twice, and a copy that keeps the old record's time or place."""
    distiller = FakeDistiller()
    one = cached_distiller(distiller, cache)
    await distilled(one, RED)
    cheaper = replace(RED, price=1.0, event_time=99)
    knowledge = await one.known(cheaper, source_partition=3, source_offset=4)
    assert knowledge is not None
    assert (knowledge.event_time, knowledge.source_partition, knowledge.source_offset) == (99, 3, 4)
    cost = knowledge.provenance
    assert (cost.origin, cost.calls, cost.tokens_in, cost.tokens_out, cost.latency_seconds) == ("cache", 0, 0, 0, 0)
    assert await distilled(one, cheaper) == replace(knowledge, source_partition=1, source_offset=2)
    assert distiller.asked == ["red"]


async def test_a_new_recipe_inside_a_version_distills_nothing_again_and_a_new_version_does(cache: FakeCache) -> None:
    """Catches a catalogue paid for twice by an edited prompt, or a new version that keeps the old prompts' answers."""
    await distilled(cached_distiller(FakeDistiller("r1"), cache), RED)
    edited = FakeDistiller("r2")
    assert (await distilled(cached_distiller(edited, cache), RED)).summary == "by r1"
    assert edited.asked == []
    assert (await distilled(cached_distiller(edited, cache, "v2"), RED)).summary == "by r2"
    same = FakeDistiller("r1")
    assert (await distilled(cached_distiller(same, cache, "v3"), RED)).version == "v3"
    assert same.asked == []


async def test_a_variant_shares_and_says_so(cache: FakeCache) -> None:
    """Catches a share that hides where it came from, costs something, or claims the leader's colour."""
    distiller = FakeDistiller()
    one = cached_distiller(distiller, cache)
    await distilled(one, RED)
    knowledge = await distilled(one, BLUE)
    assert distiller.asked == ["red"]
    assert (knowledge.item_id, knowledge.provenance.origin, knowledge.provenance.shared_from) == (
        "blue",
        "shared",
        "red",
    )
    assert (knowledge.provenance.calls, knowledge.provenance.tokens_in) == (0, 0)
    assert [claim.value for claim in knowledge.claims] == ["Acme"]
    assert knowledge.content_fingerprint == content_fingerprint(BLUE)
    assert knowledge.fingerprint == distiller.fingerprint(BLUE)
    again = await distilled(one, replace(BLUE, price=9.0))
    assert (again.provenance.origin, again.provenance.shared_from) == ("cache", "red")


async def test_sharing_can_be_switched_off(cache: FakeCache) -> None:
    """Catches a switch without effect, also on what another version shared."""
    await distilled(cached_distiller(FakeDistiller(), cache), RED)
    await distilled(cached_distiller(FakeDistiller(), cache), BLUE)
    distiller = FakeDistiller()
    knowledge = await distilled(cached_distiller(distiller, cache, "v2", sharing=False), BLUE)
    assert distiller.asked == ["blue"]
    assert knowledge.provenance.origin == "fresh"


async def test_many_at_once_ask_once(cache: FakeCache) -> None:
    """Catches ten calls for an item or its variants that a feed brings at once; also before Kafka confirms."""
    distiller = FakeDistiller()
    distiller.gate = asyncio.Event()
    one = cached_distiller(distiller, cache)
    items = [RED, *[replace(RED, item_id=f"copy{n}") for n in range(4)], BLUE, LAMP]
    tasks = [asyncio.create_task(one.distill(item)) for item in items]
    await until(lambda: len(distiller.asked) == 2)
    distiller.gate.set()
    results = await asyncio.gather(*tasks)
    assert sorted(distiller.asked) == ["lamp", "red"]
    assert [result.provenance.origin for result in results] == ["fresh", *["cache"] * 4, "shared", "fresh"]
    assert (await one.distill(replace(RED, item_id="late"))).provenance.origin == "cache"
    assert len(distiller.asked) == 2


async def test_a_leader_that_is_cancelled_leaves_the_lead_to_another(cache: FakeCache) -> None:
    """Catches followers that are cancelled with their leader, or wait for ever."""
    distiller = FakeDistiller()
    distiller.gate = asyncio.Event()
    one = cached_distiller(distiller, cache)
    leader = asyncio.create_task(one.distill(RED))
    await until(lambda: distiller.asked == ["red"])
    followers = [asyncio.create_task(one.distill(replace(RED, item_id=f"f{n}"))) for n in range(3)]
    await asyncio.sleep(0.05)
    leader.cancel()
    await until(lambda: len(distiller.asked) == 2)
    distiller.gate.set()
    results = await asyncio.gather(*followers)
    assert [result.item_id for result in results] == ["f0", "f1", "f2"]
    assert len(distiller.asked) == 2


async def test_a_follower_that_is_cancelled_leaves_its_leader_alone(cache: FakeCache) -> None:
    """Catches one record's rebalance that throws another's answer away."""
    distiller = FakeDistiller()
    distiller.gate = asyncio.Event()
    one = cached_distiller(distiller, cache)
    leader = asyncio.create_task(one.distill(RED))
    await until(lambda: distiller.asked == ["red"])
    follower = asyncio.create_task(one.distill(replace(RED, item_id="f")))
    await asyncio.sleep(0.05)
    follower.cancel()
    distiller.gate.set()
    assert (await leader).item_id == "red"
    assert follower.cancelled() or (await asyncio.gather(follower, return_exceptions=True))


async def test_a_leaders_bad_answer_is_not_its_followers_fault(cache: FakeCache) -> None:
    """Catches a batch of variants dead-lettered for one unlucky answer."""
    distiller = FakeDistiller()
    distiller.gate = asyncio.Event()
    distiller.troubles.append(InvalidKnowledge("no JSON", "{"))
    one = cached_distiller(distiller, cache)
    tasks = [asyncio.create_task(one.distill(item)) for item in (RED, BLUE, replace(RED, item_id="r2"))]
    await until(lambda: len(distiller.asked) == 1)
    await asyncio.sleep(0.05)
    distiller.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, InvalidKnowledge) for result in results].count(True) == 1
    assert sum(isinstance(result, ItemKnowledge) for result in results) == 2


async def test_an_endpoint_that_is_away_fails_each_by_itself_and_nobody_hangs(cache: FakeCache) -> None:
    """Catches followers that hang when the endpoint dies under their leader."""
    distiller = FakeDistiller()
    distiller.troubles.extend([LLMUnavailable("away")] * 3)
    one = cached_distiller(distiller, cache)
    tasks = [asyncio.create_task(one.distill(replace(RED, item_id=f"i{n}"))) for n in range(3)]
    async with asyncio.timeout(5):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, LLMUnavailable) for result in results)
    assert (await one.distill(RED)).provenance.origin == "fresh"


async def test_nothing_is_distilled_without_the_cache_and_no_failure_is_kept(cache: FakeCache) -> None:
    """Catches a Redis outage that distills the whole catalogue, and a failure served from the cache for months."""
    distiller = FakeDistiller()
    one = cached_distiller(distiller, cache)
    cache.trouble = ConnectionError("redis is away")
    with pytest.raises(ConnectionError):
        await one.distill(RED)
    assert distiller.asked == []
    cache.trouble = None
    distiller.troubles.append(InvalidKnowledge("no JSON", "{"))
    with pytest.raises(InvalidKnowledge):
        await one.distill(RED)
    assert cache.rows == {}
    assert await one.known(RED) is None


def test_the_key_of_a_variant_is_the_sharing_key() -> None:
    """Catches samples above that would pass for another reason."""
    assert sharing_key(RED) == sharing_key(BLUE) != sharing_key(LAMP)


async def until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)
