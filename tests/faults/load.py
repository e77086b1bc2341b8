"""What a fault test sends, and what must be there when all of it has been worked on.

Owns the records, the same for the same numbers, and their truth. Must not know how a worker gets there.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from freshet.records import Item, UserEvent
from schemas.codec import Codec
from streams.kafka.producer import Delivery, KafkaProducer
from streams.kafka.topics import Topics
from streams.settings import Settings

CODEC = Codec()
TYPES = ("view", "cart", "purchase")
HOUR_MS = 3_600_000
TASTE = 40
"""Items that one user looks at."""
# A broker may be away for a minute and more: what was handed over is delivered all the same, in its order.
PATIENT = {"delivery.timeout.ms": 900_000}


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it is sent; `good` is False where it must become a dead letter."""

    topic: str
    key: bytes | None
    value: bytes | None
    good: bool = True


@dataclass
class Truth:
    """What must be in the end: newest items, deleted ones, each user's events by time, erased users."""

    items: dict[str, Item] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    events: dict[str, dict[int, UserEvent]] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)


class Load:
    """Records for `items` and `user-events`, mixed, and their `truth`.

    Of the items a third is updated, a tenth of those gets an older state after a newer one, one in thirty is deleted
    (half of them get an older state afterwards). Of the events one in fifty comes twice; one user in a hundred is
    erased after the last of them. `bad` in a hundred records is no record at all.
    """

    def __init__(
        self, settings: Settings, *, items: int, events: int, users: int, bad: float = 1.0, seed: int = 0
    ) -> None:
        self.items, self.users = items, users
        self._random = random.Random(seed)
        self._topics = Topics(settings)
        self.truth = Truth()
        self.began_ms = time.time_ns() // 1_000_000 - HOUR_MS
        self.records = self._mixed(self._item_records(items), self._event_records(events, users), bad)
        self.events = sum(one.topic == self._topics.user_events and one.good for one in self.records)

    def _item_records(self, count: int) -> list[Record]:
        first, later, gone, last = [], [], [], []
        for n in range(count):
            old = self._item(n, 0)
            self.truth.items[old.item_id] = old
            first.append(self._of_item(old))
            if n % 3 == 0:
                new = self._item(n, 2)
                self.truth.items[new.item_id] = new
                later.append(self._of_item(new))
                if n % 10 == 0:
                    last.append(self._of_item(self._item(n, 1)))
            if n % 30 == 1:
                self.truth.deleted.add(old.item_id)
                del self.truth.items[old.item_id]
                gone.append(Record(self._topics.items, old.item_id.encode(), None))
                if n % 60 == 1:
                    last.append(self._of_item(self._item(n, 1)))
        return [*first, *later, *gone, *last]

    def _item(self, n: int, state: int) -> Item:
        title = f"thing{n} made of stuff{n % 97} state{state}"
        return Item(f"i{n}", self.began_ms + 10 * n + 1_000 * state, title, category=(f"c{n % 17}",), price=1.0 + n)

    def _of_item(self, item: Item) -> Record:
        return Record(self._topics.items, item.item_id.encode(), CODEC.encode(item))

    def _event_records(self, count: int, users: int) -> list[Record]:
        made: list[Record] = []
        for n in range(count):
            number = self._random.randrange(users)
            user, kind = f"u{number}", TYPES[n % len(TYPES)]
            item = f"i{(number + self._random.randrange(TASTE)) % self.items}"
            event = UserEvent(user, item, kind, self.began_ms + n, f"e{n}", 1.0)
            self.truth.events.setdefault(user, {})[event.event_time] = event
            record = Record(self._topics.user_events, user.encode(), CODEC.encode(event))
            made.append(record)
            if n % 50 == 0:
                made.append(record)
        for user in sorted(self.truth.events)[::100]:
            self.truth.erased.add(user)
            del self.truth.events[user]
            made.append(Record(self._topics.user_events, user.encode(), None))
        return made

    def _mixed(self, items: list[Record], events: list[Record], bad: float) -> list[Record]:
        """Both in their order, spread evenly over each other; the bad ones anywhere."""
        places = [(at / len(rows), one) for rows in (items, events) if rows for at, one in enumerate(rows)]
        for n in range(int(bad * len(places) / 100)):
            topic = self._topics.items if n % 2 or not events else self._topics.user_events
            places.append((self._random.random(), Record(topic, b"bad%d" % n, self._random.randbytes(40), good=False)))
        return [one for _, one in sorted(places, key=lambda place: place[0])]


class Sender:
    """Sends records in their order on a thread of its own, `rate` a second; nothing is sent that is not confirmed."""

    def __init__(self, settings: Settings, records: Sequence[Record], rate: float) -> None:
        self._records, self._rate = records, rate
        self._producer = KafkaProducer(settings, **PATIENT)
        self._futures: list[Future[Delivery]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stop = threading.Event()
        self._thread.start()

    @property
    def sending(self) -> bool:
        """Whether there is more to come."""
        return self._thread.is_alive()

    @property
    def share(self) -> float:
        """How much of it has been handed over, from 0 to 1."""
        return len(self._futures) / max(1, len(self._records))

    def hurry(self) -> None:
        """Send the rest as fast as it goes."""
        self._rate = float("inf")

    def finish(self, timeout_s: float = 300.0) -> dict[tuple[str, int, int], Record]:
        """Wait until all is confirmed; answers where the bad ones stand."""
        try:
            self._thread.join(timeout_s)
            assert not self._thread.is_alive(), f"{self.share:.0%} handed over after {timeout_s:g} s"
            placed = [future.result(timeout_s) for future in self._futures]
        finally:
            self._stop.set()
            self._producer.close()
        return {
            (at.topic, at.partition, at.offset): record
            for at, record in zip(placed, self._records, strict=True)
            if not record.good
        }

    def _run(self) -> None:
        began = time.monotonic()
        for sent, record in enumerate(self._records, 1):
            self._futures.append(self._producer.send(record.topic, record.key, record.value))
            ahead = sent / self._rate - (time.monotonic() - began)
            if ahead > 0.05 and self._stop.wait(ahead):
                return
