"""Every lane, stopped at each of its await points and failed at each of its calls: nothing is acknowledged too early.

For each schedule: 1. run up to the point; 2. cancel, fail or crash there; 3. no record below the position may lack its
durable result; 4. go on from the position, as whoever comes next does; 5. in the end every record has its result, and
none is older than one before it under its key.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from freshet.records import DeadLetter, Item, ItemFeatures, ItemKnowledge
from schemas.codec import Codec
from streams.consumers.assignment import Intake
from streams.consumers.in_flight import Batcher, Fail, Finish, InFlight, InFlightLimiter
from streams.errors import DeliveryFailed
from streams.kafka.offsets import OffsetTracker, Ticket, TopicPartition
from streams.kafka.record import SourceRecord
from streams.lanes.item_distill import ItemDistill
from streams.lanes.item_text import ItemText
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.streams.lanes.test_item_distill import FakeDistiller
from tests.support.fakes import NOW_MS, FakeClock
from tests.support.fakes_broker import FakeBroker
from tests.support.fakes_encoder import FakeEncoder
from tests.support.schedules import Calls, Drive, SlowProducer, StepLoop, stepping

CODEC = Codec()
FEATURES, KNOWLEDGE, LETTERS = "item-features-v1", "item-knowledge", "items.dlq"


class Unheard(Exception):
    """An error that no table names: fatal."""


def records(broker: FakeBroker) -> list[SourceRecord]:
    """Seven records: two states of one item, a deletion, poison, and others."""
    rows: list[tuple[bytes | None, bytes | None]] = [
        (b"a", CODEC.encode(Item("a", NOW_MS - 9, "Oat drink"))),
        (b"b", CODEC.encode(Item("b", NOW_MS - 8, "Rye bread"))),
        (b"x", b"garbage"),
        (b"a", CODEC.encode(Item("a", NOW_MS - 7, "Oat drink, better"))),
        (b"c", None),
        (None, b"\xc3\x01"),
        (b"d", CODEC.encode(Item("d", NOW_MS - 6, "Tea"))),
    ]
    return [broker.append("items", key, value) for key, value in rows]


class World:
    """One lane over dependencies that outlive it, as Kafka outlives a worker."""

    def __init__(self, lane: str, make_in_flight: Callable[..., InFlight] | None = None) -> None:
        self.broker = FakeBroker()
        self.records = records(self.broker)
        self._lane, self._make_in_flight = lane, make_in_flight

    def intake(self, loop: StepLoop, calls: Calls) -> Intake:
        """A new process of the lane."""
        resources = Resources(
            Settings.load({}, llm_concurrency=2),
            clock=FakeClock(),
            producer=SlowProducer(self.broker, loop, calls),
            encoder=FakeEncoder(before=lambda _: calls()),
        )

        def window(finish: Finish, fail: Fail) -> InFlight:
            if self._lane == "item-text":
                made = self._make_in_flight or Batcher
                return made(ItemText(resources).process, finish, fail, size=3, wait_s=0.02)
            distiller = FakeDistiller()
            for name in ("known", "distill", "remember"):
                setattr(distiller, name, calls.wrap(getattr(distiller, name)))
            core = ItemDistill(resources, distiller)
            sliding = InFlightLimiter(core.process, finish, fail, size=4, parking=2)
            core.park = sliding.park
            return sliding

        return Intake(self._lane, resources.metrics, window)

    def durable(self, record: SourceRecord) -> bool:
        """Whether the lane's whole result for a record is on a topic."""
        dead_letters = {CODEC.decode(DeadLetter, value or b"").offset for value in self.broker.values(LETTERS)}
        if record.offset in dead_letters:
            return True
        wanted = [FEATURES] if self._lane == "item-text" else [KNOWLEDGE, FEATURES]
        return all(self._on(topic, record) for topic in wanted)

    def _on(self, topic: str, record: SourceRecord) -> bool:
        for one in self.broker.logs[topic]:
            if one.key != record.key or (one.value is None) != (record.value is None):
                continue
            if one.value is None:
                return True
            kind: Any = ItemFeatures if topic == FEATURES else ItemKnowledge
            if CODEC.decode(kind, one.value).source_offset == record.offset:
                return True
        return False

    def check(self, position: int) -> None:
        """Fail where something acknowledged is not durable."""
        for record in self.records[:position]:
            assert self.durable(record), f"acknowledged up to {position}, and {record.offset} has no result"

    def check_order(self) -> None:
        """Fail where the last word on a key is not its newest."""
        for topic in [FEATURES] if self._lane == "item-text" else [FEATURES, KNOWLEDGE]:
            newest = self.broker.latest(topic)
            kind: Any = ItemFeatures if topic == FEATURES else ItemKnowledge
            assert CODEC.decode(kind, newest[b"a"] or b"").source_offset == 3
            assert newest[b"c"] is None


def run(monkeypatch: pytest.MonkeyPatch, lane: str, calls: Calls, stop_at: int | None, how: str, **mutant: Any) -> int:
    """One schedule; answers how many steps an undisturbed one took, or -1 where it was done before `stop_at`."""
    world = World(lane, **mutant)
    with stepping(monkeypatch) as loop:
        drive = Drive(loop, lambda: world.intake(loop, calls), world.records)
        drive.begin(0)
        steps = drive.loop.finish(lambda: drive.done()) if stop_at is None else 0
        for _ in range(stop_at or 0):
            if drive.done():
                break
            loop.step()
            world.check(drive.position())
        ended = stop_at is not None and drive.done()
        world.check(drive.position())
        position = drive.rebalance() if how == "rebalance" and not drive.intake.failed.done() else drive.position()
        world.check(position)
    # What was sent and not confirmed when the process died may or may not arrive; here it does not.
    with stepping(monkeypatch) as loop:
        again = Drive(loop, lambda: world.intake(loop, Calls()), world.records)
        again.begin(position)
        loop.finish(lambda: again.done() or position == len(world.records))
        assert not again.intake.failed.done(), again.intake.failed
    world.check(len(world.records))
    world.check_order()
    return -1 if ended else steps


@pytest.fixture(params=["item-text", "item-distill"])
def lane(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("how", ["crash", "rebalance"])
def test_stopped_at_every_await_point(monkeypatch: pytest.MonkeyPatch, lane: str, how: str) -> None:
    """Catches an acknowledgement before its result is durable, wherever a process dies or is cancelled."""
    for stop_at in range(10_000):
        if run(monkeypatch, lane, Calls(), stop_at, how) == -1:
            break
    assert stop_at > 15, f"only {stop_at} await points"
    print(f"{lane}: {stop_at} await points, {how}")


@pytest.mark.parametrize("error", [DeliveryFailed("away"), Unheard("what is this")], ids=["transient", "fatal"])
def test_failed_at_every_call(monkeypatch: pytest.MonkeyPatch, lane: str, error: Exception) -> None:
    """Catches an error of any dependency, at any call, that is taken for success, or that loses what was in work."""
    counting = Calls()
    run(monkeypatch, lane, counting, None, "crash")
    assert counting.made > 8
    for fail_at in range(counting.made):
        run(monkeypatch, lane, Calls(fail_at, error), None, "crash")
    print(f"{lane}: {counting.made} calls failed, one each time")


class EagerBatcher(Batcher):
    """Mutant: acknowledges before it works."""

    async def _run(self, batch: list[tuple[Ticket, SourceRecord]]) -> None:
        for ticket, _ in batch:
            self._finish(ticket)
        await super()._run(batch)


class ForgivingBatcher(Batcher):
    """Mutant: takes an error for a result."""

    async def _run(self, batch: list[tuple[Ticket, SourceRecord]]) -> None:
        with suppress(Exception):
            await self._work([record for _, record in batch])
        for ticket, _ in batch:
            self._finish(ticket)
        self._task = None
        self._begin()


class CleaningBatcher(Batcher):
    """Mutant: acknowledges in a `finally`, as Faust's `take` does."""

    async def _run(self, batch: list[tuple[Ticket, SourceRecord]]) -> None:
        try:
            await self._work([record for _, record in batch])
        finally:
            for ticket, _ in batch:
                self._finish(ticket)
            self._task = None
        self._begin()


def off_by_one(self: OffsetTracker, tp: TopicPartition) -> int | None:
    """Mutant: Faust's commit rule."""
    partition = self._partitions.get(tp)
    return None if partition is None or partition.next_offset is None else partition.next_offset + 1


def condemned(monkeypatch: pytest.MonkeyPatch, **mutant: Any) -> bool:
    try:
        for stop_at in range(200):
            for how in ("crash", "rebalance"):
                if run(monkeypatch, "item-text", Calls(), stop_at, how, **mutant) == -1:
                    raise StopIteration
    except AssertionError:
        return True
    except StopIteration:
        pass
    try:
        for fail_at in range(9):
            run(monkeypatch, "item-text", Calls(fail_at, Unheard("x")), None, "crash", **mutant)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("window", [EagerBatcher, ForgivingBatcher, CleaningBatcher])
def test_mutants_of_the_window_are_condemned(monkeypatch: pytest.MonkeyPatch, window: type[Batcher]) -> None:
    """Catches a check that is content with any lane."""
    assert condemned(monkeypatch, make_in_flight=window)


def test_a_mutant_of_the_tracker_is_condemned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the same."""
    monkeypatch.setattr(
        OffsetTracker,
        "positions",
        lambda self: {p: off_by_one(self, p) for p in self._partitions if off_by_one(self, p)},
    )
    assert condemned(monkeypatch)


def interleavings(count: int) -> Iterator[list[int]]:
    """Every order in which `count` records may be finished."""
    return map(list, itertools.permutations(range(count)))


def test_the_tracker_in_every_order_of_finishing_and_revoking() -> None:
    """Catches a position past an unfinished record, in any of all orders, with a revocation at any point."""
    explored = 0
    for offsets in ([0, 1, 2, 3, 4], [3, 7, 8, 20, 21]):
        for order in interleavings(len(offsets)):
            for revoked_after in range(len(offsets) + 1):
                tracker, place = OffsetTracker(), ("t", 0)
                tickets = [tracker.register(place, offset) for offset in offsets]
                finished: set[int] = set()
                for step, one in enumerate(order):
                    if step == revoked_after:
                        tracker.forget([place])
                        fresh = [tracker.register(place, offset) for offset in offsets]
                        assert not tracker.finish(tickets[one]), "work of before a rebalance moved a position"
                        tickets, finished = fresh, set()
                    assert tracker.finish(tickets[one])
                    finished.add(one)
                    run_length = next((n for n in range(len(offsets)) if n not in finished), len(offsets))
                    assert tracker.position(place) == (offsets[run_length - 1] + 1 if run_length else None)
                    explored += 1
    print(f"tracker: {explored} states")
    assert explored > 5_000
