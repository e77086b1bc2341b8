"""item-distill without a broker: order, concurrency, and what the LLM's troubles do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
import redis

from freshet.records import DeadLetter, Item, ItemFeatures, ItemKnowledge, ItemTier, Provenance
from models.llm.client import LLMForbidden, LLMRejected, LLMUnavailable
from models.llm.limits import BudgetSpent
from processors.items.distiller import InvalidKnowledge
from schemas.codec import Codec
from streams.consumers.assignment import Intake
from streams.consumers.in_flight import Fail, Finish, InFlightLimiter
from streams.errors import DeliveryFailed
from streams.kafka.record import SourceRecord
from streams.lanes.item_distill import ItemDistill
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.support.fakes import NOW_MS, FakeClock
from tests.support.fakes_broker import FakeBroker, FakeProducer
from tests.support.fakes_encoder import FakeEncoder

CODEC = Codec()
KNOWLEDGE, FEATURES, LETTERS = "item-knowledge", "item-features-v1", "items.dlq"


class FakeDistiller:
    """Answers as `behave` says: with a delay, an error, or at once."""

    def __init__(self) -> None:
        self.under_way = 0
        self.most_under_way = 0
        self.asked: list[str] = []
        self.behave: Callable[[Item], object] = lambda item: None
        self.cached: dict[str, ItemKnowledge] = {}
        self.redis_away = 0

    async def known(self, item: Item, *, source_partition: int = -1, source_offset: int = -1) -> ItemKnowledge | None:
        if self.redis_away:
            self.redis_away -= 1
            raise redis.ConnectionError("away")
        return self.cached.get(item.title)

    async def remember(self, item: Item, knowledge: ItemKnowledge) -> None:
        if self.redis_away:
            self.redis_away -= 1
            raise redis.ConnectionError("away")
        self.cached[item.title] = replace(knowledge, provenance=Provenance(origin="cache"))

    async def distill(self, item: Item, *, source_partition: int = -1, source_offset: int = -1) -> ItemKnowledge:
        self.asked.append(item.title)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            outcome = self.behave(item)
            if isinstance(outcome, BaseException):
                raise outcome
            if isinstance(outcome, asyncio.Event):
                await outcome.wait()
            await asyncio.sleep(0)
        finally:
            self.under_way -= 1
        return ItemKnowledge(
            item.item_id,
            item.event_time,
            NOW_MS,
            "f" * 64,
            f"a {item.title}",
            provenance=Provenance(calls=2, tokens_in=10, tokens_out=5),
            source_partition=source_partition,
            source_offset=source_offset,
        )


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def resources(broker: FakeBroker) -> Resources:
    return Resources(
        Settings.load({}, llm_concurrency=2), clock=FakeClock(), producer=FakeProducer(broker), encoder=FakeEncoder()
    )


class Lane:
    """The lane's core behind an intake, as `FaustConsumer` drives it."""

    def __init__(self, resources: Resources, distiller: FakeDistiller, size: int = 8, parking: int = 0) -> None:
        def window(finish: Finish, fail: Fail) -> InFlightLimiter:
            core = ItemDistill(resources, distiller)
            made = InFlightLimiter(core.process, finish, fail, size=size, parking=parking)
            core.park = made.park
            return made

        self.intake = Intake("item-distill", resources.metrics, window)
        self.intake.open(1)

    async def feed(self, records: list[SourceRecord]) -> None:
        for record in records:
            assert await self.intake.take(record, 1)

    def position(self) -> int | None:
        return self.intake.positions().get(("items", 0))

    async def end(self) -> None:
        await self.intake.release(5)
        if self.intake.failed.done():
            raise self.intake.failed.result()


def item(item_id: str, title: str = "Oat drink", event_time: int = NOW_MS) -> Item:
    return Item(item_id, event_time, title)


def source(broker: FakeBroker, *items: Item) -> list[SourceRecord]:
    return [broker.append("items", one.item_id.encode(), CODEC.encode(one)) for one in items]


async def test_knowledge_then_its_vector_are_published_before_the_acknowledgement(
    resources: Resources, broker: FakeBroker
) -> None:
    """Catches an acknowledgement while knowledge or vector could still be lost."""
    producer = resources.producer
    assert isinstance(producer, FakeProducer)
    producer.hold()
    lane = Lane(resources, FakeDistiller())
    await lane.feed(source(broker, item("a")))
    await wait_until(lambda: len(broker.logs[KNOWLEDGE]) == 1)
    await asyncio.sleep(0.1)
    assert len(broker.logs[FEATURES]) == 0
    assert lane.position() is None
    producer.confirm()
    await lane.end()
    assert lane.position() == 1
    knowledge = CODEC.decode(ItemKnowledge, broker.latest(KNOWLEDGE)[b"a"] or b"")
    features = CODEC.decode(ItemFeatures, broker.latest(FEATURES)[b"a"] or b"")
    assert knowledge.summary == "a Oat drink"
    assert (features.tier, features.source_offset) == (ItemTier.KNOWLEDGE, 0)


async def test_a_slow_item_holds_back_acknowledgements_not_work(resources: Resources, broker: FakeBroker) -> None:
    """Catches a barrier: one slow answer, and a whole window waits."""
    distiller, go = FakeDistiller(), asyncio.Event()
    distiller.behave = lambda one: go if one.item_id == "slow" else None
    lane = Lane(resources, distiller)
    await lane.feed(source(broker, item("slow"), *[item(f"i{n}") for n in range(6)]))
    await wait_until(lambda: len(broker.logs[FEATURES]) == 6)
    assert lane.position() is None
    go.set()
    await lane.end()
    assert lane.position() == 7


async def test_known_knowledge_passes_an_llm_that_is_away(resources: Resources, broker: FakeBroker) -> None:
    """Catches price changes that wait, with their vectors back on the text tier, for a model they do not need."""
    distiller, away = FakeDistiller(), True

    def behave(one: Item) -> object:
        return BudgetSpent("this hour's", 0.05) if away else None

    lane = Lane(resources, distiller, size=2, parking=10)
    distiller.cached["known"] = ItemKnowledge("k", NOW_MS, NOW_MS, "f", "known", provenance=Provenance(origin="cache"))
    distiller.behave = behave
    await lane.feed(source(broker, *[item(f"new{n}", f"new {n}") for n in range(4)]))
    await lane.feed(source(broker, *[item(f"known{n}", "known") for n in range(4)]))
    await wait_until(lambda: len(broker.logs[FEATURES]) == 4)
    assert lane.position() is None
    away = False
    await lane.end()
    assert lane.position() == 8
    assert broker.logs[LETTERS] == []
    made = resources.metrics.knowledge
    assert {origin: made.labels(origin=origin)._value.get() for origin in ("fresh", "cache", "shared")} == {
        "fresh": 4,
        "cache": 4,
        "shared": 0,
    }


async def test_without_the_cache_nothing_goes_on_and_nothing_is_lost(resources: Resources, broker: FakeBroker) -> None:
    """Catches a Redis outage that distills what is known, dead-letters, or acknowledges what was not remembered."""
    distiller = FakeDistiller()
    distiller.redis_away = 2
    lane = Lane(resources, distiller)
    await lane.feed(source(broker, item("a")))
    await wait_until(lambda: "Oat drink" in distiller.cached)
    distiller.redis_away = 1
    await lane.feed(source(broker, item("b", "Tea")))
    await lane.end()
    assert lane.position() == 2
    assert distiller.asked == ["Oat drink", "Tea"]
    assert broker.logs[LETTERS] == []


async def test_knowledge_is_remembered_only_after_kafka_has_it(resources: Resources, broker: FakeBroker) -> None:
    """Catches a cache that knows what the log does not: a rebuild would lose it."""
    producer = resources.producer
    assert isinstance(producer, FakeProducer)
    producer.hold()
    distiller = FakeDistiller()
    lane = Lane(resources, distiller)
    await lane.feed(source(broker, item("a")))
    await wait_until(lambda: len(broker.logs[KNOWLEDGE]) == 1)
    assert distiller.cached == {}
    producer.confirm()
    await lane.end()
    assert list(distiller.cached) == ["Oat drink"]


async def test_a_vector_far_from_its_category_flags_its_knowledge(resources: Resources, broker: FakeBroker) -> None:
    """Catches a flag that is made and not published: nobody would look at the odd one out."""
    usual = [Item(f"i{n}", NOW_MS, f"green oat drink {n}", category=("drinks",)) for n in range(40)]
    odd = Item("odd", NOW_MS, "chainsaw lubricant hydraulic spare", category=("drinks",))
    lane = Lane(resources, FakeDistiller(), size=1)
    await lane.feed(source(broker, *usual, odd))
    await lane.end()
    published = {key: CODEC.decode(ItemKnowledge, value or b"") for key, value in broker.latest(KNOWLEDGE).items()}
    assert [key for key, one in published.items() if one.flags] == [b"odd"]
    assert published[b"odd"].flags == ("far_from_category",)


async def test_vectors_are_made_together(resources: Resources, broker: FakeBroker) -> None:
    """Catches one encoder call an item, which halves what two cores encode."""
    lane = Lane(resources, FakeDistiller(), size=32)
    await lane.feed(source(broker, *[item(f"i{n}") for n in range(32)]))
    await lane.end()
    encoder = resources.encoder
    assert isinstance(encoder, FakeEncoder)
    assert len(encoder.calls) < 16
    assert sum(map(len, encoder.calls)) == 32


async def test_two_updates_of_one_item_come_out_in_order(resources: Resources, broker: FakeBroker) -> None:
    """Catches an older update that is published last and stays in the compacted topic; also behind a deletion."""
    distiller, go = FakeDistiller(), asyncio.Event()
    distiller.behave = lambda one: go if one.title == "old" else None
    lane = Lane(resources, distiller)
    [old, new] = source(broker, item("a", "old"), item("a", "new", NOW_MS + 1))
    [gone_before] = source(broker, item("b", "old"))
    gone = broker.append("items", b"b", None, timestamp=NOW_MS)
    await lane.feed([old, new, gone_before, gone])
    await asyncio.sleep(0.05)
    assert broker.logs[FEATURES] == []
    go.set()
    await lane.end()
    last = CODEC.decode(ItemKnowledge, broker.latest(KNOWLEDGE)[b"a"] or b"")
    assert last.summary == "a new"
    assert broker.latest(KNOWLEDGE)[b"b"] is None
    assert broker.latest(FEATURES)[b"b"] is None
    assert lane.position() == 4


async def test_an_llm_that_is_away_is_waited_for(resources: Resources, broker: FakeBroker) -> None:
    """Catches a dead letter, or a lost item, because a server was restarted."""
    distiller, tries = FakeDistiller(), {"left": 3}

    def behave(one: Item) -> object:
        if tries["left"] > 0:
            tries["left"] -= 1
            return LLMUnavailable("connection refused")
        return None

    distiller.behave = behave
    lane = Lane(resources, distiller)
    await lane.feed(source(broker, item("a"), item("b"), item("c")))
    await lane.end()
    assert set(broker.latest(KNOWLEDGE)) == {b"a", b"b", b"c"}
    assert broker.logs[LETTERS] == []
    assert lane.position() == 3


async def test_an_answer_that_stays_invalid_is_a_dead_letter(resources: Resources, broker: FakeBroker) -> None:
    """Catches one unlucky item that stops the lane, or is forgotten."""
    distiller = FakeDistiller()
    outcomes = {"a": InvalidKnowledge("not JSON", "{"), "b": LLMRejected("prompt too long")}
    distiller.behave = lambda one: outcomes.get(one.item_id)
    lane = Lane(resources, distiller)
    await lane.feed(source(broker, item("a"), item("b"), item("c")))
    await lane.end()
    dead_letters = [CODEC.decode(DeadLetter, value or b"") for value in broker.values(LETTERS)]
    assert {(one.key, one.reason, one.stage) for one in dead_letters} == {
        (b"a", "invalid_knowledge", "item-distill/distill"),
        (b"b", "llm_rejected", "item-distill/distill"),
    }
    assert {one.output for one in dead_letters} == {"{", ""}
    assert list(broker.latest(KNOWLEDGE)) == [b"c"]
    assert lane.position() == 3


async def test_a_broker_that_is_away_costs_no_second_llm_call(resources: Resources, broker: FakeBroker) -> None:
    """Catches tokens spent again because a publication had to be repeated."""
    producer = resources.producer
    assert isinstance(producer, FakeProducer)
    producer.failures.extend([DeliveryFailed("away")] * 2)
    distiller = FakeDistiller()
    lane = Lane(resources, distiller)
    await lane.feed(source(broker, item("a")))
    await lane.end()
    assert distiller.asked == ["Oat drink"]
    assert lane.position() == 1


async def test_a_wrong_key_to_the_llm_stops_the_lane_and_acknowledges_nothing(
    resources: Resources, broker: FakeBroker
) -> None:
    """Catches a wrong setting that empties the items topic into its dead letters."""
    distiller = FakeDistiller()
    distiller.behave = lambda one: LLMForbidden("401")
    lane = Lane(resources, distiller)
    await lane.feed(source(broker, item("a")))
    with pytest.raises(LLMForbidden):
        await lane.end()
    assert lane.position() is None
    assert broker.logs[LETTERS] == []


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)
