"""item-text without a broker: what each record becomes, in which order, and what an error does."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from freshet.records import DeadLetter, Item, ItemFeatures, ItemTier
from schemas.codec import Codec, RegistryUnavailable
from streams.errors import DeliveryFailed, RecordTooLarge, TooManyDeadLetters
from streams.kafka.record import SourceRecord
from streams.lanes.item_text import ItemText
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.support.fakes import NOW_MS, FakeClock
from tests.support.fakes_broker import FakeBroker, FakeProducer
from tests.support.fakes_encoder import FakeEncoder

CODEC = Codec()
FEATURES, LETTERS = "item-features-v1", "items.dlq"


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


def make_resources(broker: FakeBroker, **fakes: Any) -> Resources:
    given = {"producer": FakeProducer(broker), "encoder": FakeEncoder(), **fakes}
    return Resources(Settings.load({}, dead_letters_run=5), clock=FakeClock(), **given)


@pytest.fixture
def resources(broker: FakeBroker) -> Resources:
    return make_resources(broker)


def item(item_id: str, title: str = "Oat drink", event_time: int = NOW_MS) -> Item:
    return Item(item_id, event_time, title)


def source(broker: FakeBroker, *values: Item | bytes | None, key: bytes | None = None) -> list[SourceRecord]:
    return [
        broker.append(
            "items",
            value.item_id.encode() if isinstance(value, Item) else key,
            CODEC.encode(value) if isinstance(value, Item) else value,
        )
        for value in values
    ]


def dead_letters(broker: FakeBroker) -> list[DeadLetter]:
    return [CODEC.decode(DeadLetter, value or b"") for value in broker.values(LETTERS)]


async def test_every_item_becomes_a_text_vector_under_its_id(resources: Resources, broker: FakeBroker) -> None:
    """Catches a result under the wrong key, of the wrong tier, or without its position in the source."""
    await ItemText(resources).process(source(broker, item("a"), item("b", "Rye bread")))
    got = [CODEC.decode(ItemFeatures, value or b"") for value in broker.values(FEATURES)]
    assert [record.key for record in broker.logs[FEATURES]] == [b"a", b"b"]
    assert [(f.item_id, f.tier, f.version, f.dims, f.source_offset) for f in got] == [
        ("a", ItemTier.TEXT, "v1", 128, 0),
        ("b", ItemTier.TEXT, "v1", 128, 1),
    ]
    assert got[0].vector != got[1].vector


async def test_a_deletion_keeps_its_place_and_its_time(resources: Resources, broker: FakeBroker) -> None:
    """Catches a deletion that overtakes the update before it, or that looks newer than it is."""
    gone = broker.append("items", b"a", None, timestamp=NOW_MS - 5_000)
    again = item("a", "Oat drink, new recipe")
    records = [*source(broker, item("a")), gone, *source(broker, again)]
    await ItemText(resources).process(records)
    made = broker.logs[FEATURES]
    assert [record.value is None for record in made] == [False, True, False]
    assert made[1].timestamp == NOW_MS - 5_000


async def test_poison_becomes_a_dead_letter_and_its_neighbors_go_on(resources: Resources, broker: FakeBroker) -> None:
    """Catches a bad record that stops the lane, or takes its batch with it, or loses its bytes."""
    bad = item("e", event_time=NOW_MS + 10**7)
    records = source(broker, item("a"), b"garbage", item("c", " "), bad, item("z"), key=b"k")
    await ItemText(resources).process(records)
    assert [record.key for record in broker.logs[FEATURES]] == [b"a", b"z"]
    found = dead_letters(broker)
    assert [(one.reason, one.offset, one.key) for one in found] == [
        ("bad_framing", 1, b"k"),
        ("empty_title", 2, b"c"),
        ("future_time", 3, b"e"),
    ]
    assert found[0].value == b"garbage"
    assert {one.stage for one in found} == {"item-text/read"}
    assert found[0].failed_time == NOW_MS


async def test_a_transient_failure_is_tried_again_in_order(resources: Resources, broker: FakeBroker) -> None:
    """Catches a dropped result, and an older record of a key that ends up behind a newer one."""
    producer = resources.producer
    assert isinstance(producer, FakeProducer)
    producer.failures.extend([None, DeliveryFailed("broker away"), None])
    await ItemText(resources).process(source(broker, item("a", "one"), item("b", "two"), item("b", "three")))
    last = CODEC.decode(ItemFeatures, broker.latest(FEATURES)[b"b"] or b"")
    assert last.source_offset == 2
    assert set(broker.latest(FEATURES)) == {b"a", b"b"}


async def test_a_registry_that_is_down_is_waited_for(broker: FakeBroker) -> None:
    """Catches dead letters for records that are fine."""

    class Flaky(Codec):
        tries = 0

        def decode(self, kind, data):
            self.tries += 1
            if self.tries == 1:
                raise RegistryUnavailable("down")
            return super().decode(kind, data)

    await ItemText(make_resources(broker, codec=Flaky())).process(source(broker, item("a")))
    assert list(broker.latest(FEATURES)) == [b"a"]
    assert dead_letters(broker) == []


async def test_a_result_too_large_for_the_broker_is_a_dead_letter(resources: Resources, broker: FakeBroker) -> None:
    """Catches a lane that sends the same impossible record for ever."""
    producer = resources.producer
    assert isinstance(producer, FakeProducer)
    producer.failures.append(RecordTooLarge("too large"))
    await ItemText(resources).process(source(broker, item("a"), item("b")))
    assert [(one.reason, one.stage) for one in dead_letters(broker)] == [("too_large", "item-text/publish")]
    assert list(broker.latest(FEATURES)) == [b"b"]


async def test_nothing_but_dead_letters_stops_the_lane(resources: Resources, broker: FakeBroker) -> None:
    """Catches a topic poured into its dead letters because of one wrong deployment."""
    with pytest.raises(TooManyDeadLetters):
        await ItemText(resources).process(source(broker, *[b"garbage"] * 6, key=b"k"))


async def test_a_dead_letter_sent_again_does_not_count_twice(resources: Resources, broker: FakeBroker) -> None:
    """Catches a broker outage that looks like a run of dead letters."""
    producer = resources.producer
    assert isinstance(producer, FakeProducer)
    producer.failures.extend([DeliveryFailed("away")] * 4)
    lane = ItemText(resources)
    await lane.process(source(broker, b"garbage", b"garbage", key=b"k"))
    assert len(dead_letters(broker)) >= 2


async def test_process_returns_only_when_the_broker_has_confirmed(resources: Resources, broker: FakeBroker) -> None:
    """Catches an acknowledgement before the result is durable."""
    producer = resources.producer
    assert isinstance(producer, FakeProducer)
    producer.hold()
    task = asyncio.create_task(ItemText(resources).process(source(broker, item("a"), b"garbage", key=b"k")))
    await asyncio.sleep(0.2)
    assert not task.done()
    producer.confirm()
    await asyncio.wait_for(task, 2)


async def test_encoding_leaves_the_loop_free(broker: FakeBroker) -> None:
    """Catches torch on the event loop: heartbeats stop, and the lane falls out of its group."""
    release = threading.Event()
    resources = make_resources(broker, encoder=FakeEncoder(before=lambda _: assert_waited(release)))
    task = asyncio.create_task(ItemText(resources).process(source(broker, item("a"))))
    for _ in range(5):
        await asyncio.sleep(0.01)
    release.set()
    await asyncio.wait_for(task, 5)


def assert_waited(release: threading.Event) -> None:
    assert release.wait(5), "the event loop was held up"
