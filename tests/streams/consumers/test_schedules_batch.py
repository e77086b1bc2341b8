"""The batched loop with its real handlers on a real Redis, failed, crashed and rebalanced at each of its calls.

As `test_schedules.py`, but calls are the points: the loop is a thread of its own and never suspends between them.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from confluent_kafka import TopicPartition

from freshet.header import decode_header
from freshet.layout import Keys
from freshet.records import DeadLetter, ItemFeatures, UserEvent
from schemas.codec import Codec
from store.functions import Library
from store.histories import HistoryStore
from streams.consumers import batch_consumer
from streams.consumers.batch_consumer import _Loop
from streams.kafka.batch import Handler
from streams.kafka.consumer import Subscription
from streams.lanes.sink import SinkHandler
from streams.lanes.user_events import UserEventsHandler
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.support.fakes_broker import FakeBroker, FakeProducer

CODEC = Codec()
NOW = 1_700_000_000_000
KEYS = Keys("f")
BATCH = 3


class Crash(BaseException):
    """The process is dead: nothing it does afterwards reaches anybody."""


class Unheard(Exception):
    """An error that no table names: fatal."""


@dataclass
class FakeMessage:
    """What the loop and its handlers ask of a `confluent_kafka.Message`."""

    place: tuple[str, int]
    at: int
    k: bytes | None
    v: bytes | None

    def topic(self) -> str:
        return self.place[0]

    def partition(self) -> int:
        return self.place[1]

    def offset(self) -> int:
        return self.at

    def key(self) -> bytes | None:
        return self.k

    def value(self) -> bytes | None:
        return self.v

    def headers(self) -> None:
        return None

    def error(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 1, NOW - 1_000 + self.at


@dataclass
class Fault:
    """Strikes at the `at`-th call of a dependency: `how` is what is raised, before the call or after it."""

    at: int
    how: str
    made: int = 0
    dead: bool = False

    def around(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`call`, counted; nothing of a dead process reaches it."""
        if self.dead:
            raise Crash
        strikes = self.made == self.at
        self.made += 1
        if strikes and self.how == "crash":
            self.dead = True
            raise Crash
        if strikes and self.how == "fatal":
            raise Unheard("what is this")
        if strikes and self.how == "away":
            raise redis.ConnectionError("away")
        answer = call(*args, **kwargs)
        if strikes and self.how == "lost answer":
            raise redis.ConnectionError("done, but the answer is lost")
        return answer


@dataclass
class FakeConsumer:
    """One partition's log; what it was told to commit outlives it."""

    log: list[FakeMessage]
    fault: Fault
    committed: dict[tuple[str, int], int] = field(default_factory=dict)
    check: Callable[[int], None] = lambda _: None
    rebalance_at: int = -1
    consumed: int = 0

    def __call__(self, _config: Any) -> FakeConsumer:
        return self

    def subscribe(self, _topics: Any, *, on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self.on_assign, self.on_revoke = on_assign, on_revoke
        self.assigned = False

    def incremental_assign(self, _partitions: Any) -> None:
        self.position = self.committed.get(self.log[0].place, 0)
        self.assigned = True

    def incremental_unassign(self, _partitions: Any) -> None:
        self.assigned = False

    def consume(self, most: int, _timeout: float) -> list[FakeMessage]:
        place = [TopicPartition(*self.log[0].place)]
        self.consumed += 1
        if self.consumed == self.rebalance_at and self.assigned:
            self.on_revoke(self, place)
        if not self.assigned:
            self.on_assign(self, place)
        found = self.log[self.position : self.position + most]
        self.position += len(found)
        return found

    def pause(self, _partitions: Any) -> None:
        pass

    resume = pause

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        if self.fault.dead:
            return []
        for one in offsets:
            self.check(one.offset)
            self.committed[one.topic, one.partition] = one.offset
        return offsets

    def close(self) -> None:
        pass


class World(ABC):
    """A lane's log, its Redis and its broker."""

    topic = ""

    def __init__(self, valkey: str, client: redis.Redis) -> None:
        client.flushall()
        self.client, self.broker = client, FakeBroker()
        self.settings = Settings.load({}, redis=valkey, dims=8)
        self.log = [FakeMessage((self.topic, 0), at, *row) for at, row in enumerate(self.rows())]
        self.committed: dict[tuple[str, int], int] = {}

    @abstractmethod
    def rows(self) -> list[tuple[bytes | None, bytes | None]]: ...

    @abstractmethod
    def handler(self, resources: Resources) -> Handler: ...

    @abstractmethod
    def durable(self, at: int) -> bool: ...

    def lettered(self, at: int) -> bool:
        values = self.broker.values(f"{self.topic}.dlq")
        return at in {CODEC.decode(DeadLetter, value or b"").offset for value in values}

    def check(self, position: int) -> None:
        for at in range(position):
            assert self.durable(at), f"acknowledged up to {position}, and {at} has no result"

    def run(self, monkeypatch: pytest.MonkeyPatch, fault: Fault, rebalance_at: int = -1) -> BaseException | None:
        """A process of the lane, from what is committed to the end of the log; answers what it failed with."""
        consumer = FakeConsumer(self.log, fault, self.committed, self.check, rebalance_at)
        monkeypatch.setattr(batch_consumer, "Consumer", consumer)
        producer = FakeProducer(self.broker)
        send = producer.send
        producer.send = lambda *args, **kwargs: fault.around(send, *args, **kwargs)  # type: ignore[method-assign]
        resources = Resources(self.settings, clock=lambda: NOW, producer=producer)
        failed: list[BaseException] = []
        subscription = Subscription("test", "test", (self.topic,))
        loop = _Loop(subscription, resources, self.handler(resources), failed.append)

        def wait(_seconds: float) -> None:
            loop._early += loop._checked(loop._consumer.consume(1, 0))

        monkeypatch.setattr(loop, "_wait", wait)
        following = loop._next

        def next_batch() -> Any:
            batch = following()
            if not batch.messages and self.committed.get(self.log[0].place, 0) == len(self.log):
                loop.stopping.set()
            loop._commit_at = 0.0  # commit after every batch
            return batch

        monkeypatch.setattr(loop, "_next", next_batch)
        with monkeypatch.context() as patched:
            call = Library.call
            patched.setattr(Library, "call", lambda *args: fault.around(call, *args))
            loop.run()
        asyncio.run(resources.close())
        return failed[0] if failed else None


class Events(World):
    """user-events: events, an erasure, poison, and an event after it."""

    topic = "user-events"

    def rows(self) -> list[tuple[bytes | None, bytes | None]]:
        def event(user: str, n: int, timestamp: int = NOW - 5_000) -> tuple[bytes, bytes]:
            return user.encode(), CODEC.encode(UserEvent(user, f"i{n}", "view", timestamp + n))

        return [event("a", 0), event("b", 1), (b"x", b"bad"), event("a", 3), (b"a", None), event("b", 5),
                event("a", 6, NOW), (None, None)]  # fmt: skip

    def handler(self, resources: Resources) -> Handler:
        return UserEventsHandler(resources)

    def durable(self, at: int) -> bool:
        message = self.log[at]
        if at in (2, 7):
            return self.lettered(at)
        [history] = HistoryStore(self.client).load([(message.k or b"").decode()])
        if message.v is None:
            tombstones = [one.key for one in self.broker.logs["user-features-v1"]]
            return tombstones.count(b"a") > 0 and not {"i0", "i3"} & set(history.item_ids)
        erased = message.k == b"a" and at < 4
        return f"i{at}" in history.item_ids or (erased and self.client.zscore(KEYS.erased(), ERASED) is not None)

    def check_end(self) -> None:
        a, b = HistoryStore(self.client).load(["a", "b"])
        assert (a.item_ids, b.item_ids) == (("i6",), ("i1", "i5"))


ERASED = "86f7e437faa5a7fce15d1ddcb9eaeaea377667b8"
"""SHA-1 of a."""


class Features(World):
    """The sink's item vectors: newer and older ones, a deletion, poison."""

    topic = "item-features-v1"

    def rows(self) -> list[tuple[bytes | None, bytes | None]]:
        def item(name: str, timestamp: int, at: int) -> tuple[bytes, bytes]:
            one = ItemFeatures(name, "v1", 1, NOW - 9_000 + timestamp, NOW, 8, bytes(16), 0, at)
            return name.encode(), CODEC.encode(one)

        return [item("a", 5, 0), item("b", 1, 1), item("a", 3, 2), (b"x", b"bad"), (b"c", None), item("b", 9, 5),
                item("c", 2, 6), (b"b", b"bad")]  # fmt: skip

    def handler(self, resources: Resources) -> Handler:
        return SinkHandler(resources)

    def durable(self, at: int) -> bool:
        if at in (3, 7):
            return self.lettered(at)
        message = self.log[at]
        header = decode_header(self.client.get(KEYS.item("v1", (message.k or b"").decode())))  # type: ignore[arg-type]
        if message.v is None:
            return header is not None and header.deleted
        timestamp = CODEC.decode(ItemFeatures, message.v).event_time
        return header is not None and (header.deleted or header.event_time >= timestamp)

    def check_end(self) -> None:
        found = [decode_header(self.client.get(KEYS.item("v1", name))) for name in "abc"]  # type: ignore[arg-type]
        assert [one and (one.event_time - NOW + 9_000, one.deleted) for one in found[:2]] == [(5, False), (9, False)]
        assert found[2] is not None
        assert found[2].deleted


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


@pytest.mark.parametrize("how", ["crash", "fatal", "away", "lost answer"])
@pytest.mark.parametrize("kind", [Events, Features])
def test_struck_at_every_call(
    valkey: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, kind: Any, how: str
) -> None:
    """Catches an acknowledgement before the result is durable, at any call of Redis or Kafka, failed in any way."""
    counting = Fault(-1, "")
    kind(valkey, client).run(monkeypatch, counting)
    assert counting.made >= 5
    for at in range(counting.made):
        world = kind(valkey, client)
        failed = world.run(monkeypatch, Fault(at, how))
        assert isinstance(failed, (Crash, Unheard)) == (how in ("crash", "fatal")), failed
        world.check(world.committed.get(world.log[0].place, 0))
        assert world.run(monkeypatch, Fault(-1, "")) is None  # whoever comes next
        world.check(len(world.log))
        world.check_end()
    print(f"{kind.__name__}: {counting.made} calls, {how}")


@pytest.mark.parametrize("kind", [Events, Features])
def test_rebalanced_at_every_read_while_a_dependency_is_away(
    valkey: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """Catches a batch in hand that is acknowledged after its partition has left, and come back."""
    for at in range(8):
        for rebalance_at in range(1, 8):
            world = kind(valkey, client)
            assert world.run(monkeypatch, Fault(at, "away"), rebalance_at) is None
            world.check(len(world.log))
            world.check_end()


@pytest.mark.parametrize("kind", [Events, Features])
def test_a_loop_that_acknowledges_first_is_condemned(
    valkey: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """Catches a check that is content with any loop."""
    carry_out = _Loop._carry_out

    def eager(self: _Loop, batch: Any) -> None:
        for place, span in batch.spans().items():
            self._tracker.finish(self._tracker.register(place, *span))
        self._commit(self._tracker.positions(), wait=True)
        self._tracker.forget()
        carry_out(self, batch)

    monkeypatch.setattr(_Loop, "_carry_out", eager)
    world = kind(valkey, client)
    with pytest.raises(AssertionError, match="has no result"):
        world.run(monkeypatch, Fault(-1, ""))
