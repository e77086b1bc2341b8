"""Ten thousand bad inputs among good ones: no lane stops, each has its letter; and a flood of them trips the limit."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from freshet.records import DeadLetter, Item, ItemFeatures, ItemKnowledge, UserEvent, UserFeatures
from local.stack.kafka import KafkaServer
from processors.validate import ContractViolation, check_deletion, check_event, check_item
from schemas.codec import Codec, DecodeError
from streams.errors import reason
from streams.kafka.producer import KafkaProducer
from tests.faults.audit import Findings
from tests.faults.report import ROWS, Row
from tests.faults.world import World
from tests.support.lane_tools import read_all

pytestmark = pytest.mark.timeout(600)

CODEC = Codec()
BAD, GOOD = 10_000, 2_000
NOW = time.time_ns() // 1_000_000
HUGE = "x" * 900_000
CONTROL = "tea\x00\x1b[31m\u202e\ufeff"
Made = tuple[bytes | None, bytes | None]


class Mill:
    """Makes bad records, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.kinds: Counter[str] = Counter()

    def item(self) -> Made:
        """One for `items`."""
        good = Item(f"i{self._random.randrange(500)}", NOW - 1_000, "Oat drink", price=1.0)
        changes: dict[str, Callable[[], Made]] = {
            "NaN": lambda: self._of(replace(good, price=float("nan"))),
            "infinite": lambda: self._of(replace(good, price=float("inf"))),
            "far future": lambda: self._of(replace(good, event_time=4 * NOW)),
            "before 1971": lambda: self._of(replace(good, event_time=self._random.choice([0, -1, -(2**62)]))),
            "seconds for milliseconds": lambda: self._of(replace(good, event_time=NOW // 1_000)),
            "blank title": lambda: self._of(replace(good, title=self._random.choice(["", " ", "\u2003\n"]))),
            "no id": lambda: (b"", CODEC.encode(replace(good, item_id=""))),
            "long id": lambda: self._of(replace(good, item_id="i" * 600)),
            "control characters, another's key": lambda: (b"k\x00", CODEC.encode(replace(good, title=CONTROL))),
            "an event": lambda: (b"u", CODEC.encode(UserEvent("u", "i", "view", NOW))),
            **self._bytes(CODEC.encode(good), good.item_id.encode()),
        }
        return self._one(changes)

    def event(self) -> Made:
        """One for `user-events`."""
        good = UserEvent(f"u{self._random.randrange(500)}", "i1", "view", NOW - 1_000, "", 1.0)
        changes: dict[str, Callable[[], Made]] = {
            "NaN": lambda: self._of(replace(good, value=float("nan"))),
            "infinite": lambda: self._of(replace(good, value=float("-inf"))),
            "far future": lambda: self._of(replace(good, event_time=2**62)),
            "before 1971": lambda: self._of(replace(good, event_time=-(2**63))),
            "no user": lambda: self._of(replace(good, user_id="")),
            "no item": lambda: self._of(replace(good, item_id="\u00a0")),
            "no type": lambda: self._of(replace(good, event_type="")),
            "huge id": lambda: self._of(replace(good, event_id=HUGE[:5_000])),
            "another's key": lambda: (b"\xff\xfe", CODEC.encode(good)),
            "nobody erased": lambda: (self._random.choice([None, b"", b"\xff"]), None),
            "an item": lambda: (b"i", CODEC.encode(Item("i", NOW, "tea"))),
            **self._bytes(CODEC.encode(good), good.user_id.encode()),
        }
        return self._one(changes)

    def knowledge(self) -> Made:
        """One for `item-knowledge`."""
        good = ItemKnowledge("i", NOW, NOW, "f" * 64)
        return self._one(
            {"another's key": lambda: (b"other", CODEC.encode(good)), **self._bytes(CODEC.encode(good), b"i")}
        )

    def features(self) -> Made:
        """One for `item-features-v1`."""
        good = ItemFeatures("i", "v1", 1, NOW, NOW, 16, bytes(32))
        return self._one(
            {
                "another version": lambda: (b"i", CODEC.encode(replace(good, version="v9"))),
                "short vector": lambda: (b"i", CODEC.encode(replace(good, vector=b"\0" * 5))),
                "NaN vector": lambda: (b"i", CODEC.encode(replace(good, vector=b"\x00\x7e" * 16))),
                "a user": lambda: (b"u", CODEC.encode(UserFeatures("u", "v1", 1, NOW, NOW, 16, bytes(32), bytes(32)))),
                **self._bytes(CODEC.encode(good), b"i"),
            }
        )

    def _bytes(self, good: bytes, key: bytes) -> dict[str, Callable[[], Made]]:
        """What can be wrong with any bytes."""
        draw = self._random
        return {
            "random bytes": lambda: (key, draw.randbytes(draw.randrange(1, 200))),
            "empty": lambda: (key, b""),
            "truncated": lambda: (key, good[: draw.randrange(len(good))]),
            "more than a record": lambda: (key, good + draw.randbytes(3)),
            "unknown fingerprint": lambda: (key, b"\xc3\x01" + draw.randbytes(8) + good[10:]),
            "a registry's id, and no registry": lambda: (key, b"\0\0\0\0" + draw.randbytes(1) + good[10:]),
            "length of a giant": lambda: (key, good[:10] + b"\xfe\xff\xff\xff\x0f" + good[12:]),
            "negative length": lambda: (key, good[:10] + b"\x01" + good[11:]),
            "JSON": lambda: (key, b'{"item_id": "i", "title": "\\ud800"}'),
            "huge": lambda: (key, HUGE.encode() if draw.random() < 0.01 else b"\xff" * 3_000),
        }

    def _of(self, record: Item | UserEvent) -> Made:
        key = record.item_id if isinstance(record, Item) else record.user_id
        return key.encode(), CODEC.encode(record)

    def _one(self, changes: dict[str, Callable[[], Made]]) -> Made:
        name = self._random.choice(sorted(changes))
        self.kinds[name] += 1
        return changes[name]()


def refused(kind: type, key: bytes | None, value: bytes | None) -> bool:
    """Whether the contract refuses it: a mill makes a good record now and then."""
    try:
        if value is None:
            check_deletion(key)
            return False
        if kind is Item:
            check_item(CODEC.decode(Item, value), NOW, 300.0, key=key)
        elif kind is UserEvent:
            check_event(CODEC.decode(UserEvent, value), NOW, 300.0, key=key)
        else:
            return True
    except (DecodeError, ContractViolation) as error:
        return bool(reason(error))
    return False


def test_ten_thousand_bad_inputs_stop_nobody_and_none_is_lost(
    broker: KafkaServer, make_world: Callable[..., World]
) -> None:
    """Catches an input that ends a lane, vanishes, or comes back with other bytes than it had."""
    world = make_world(broker, partitions=2)
    topics, mill, chance = world.topics, Mill(11), random.Random(12)
    worker = world.worker(DEAD_LETTERS_RATIO="1")
    sent: list[tuple[str, Made, bool]] = []
    makers: list[tuple[str, Callable[[], Made], type]] = [
        (topics.items, mill.item, Item),
        (topics.user_events, mill.event, UserEvent),
        (topics.item_knowledge, mill.knowledge, ItemKnowledge),
        (topics.item_features, mill.features, ItemFeatures),
    ]
    for n in range(BAD + GOOD):
        topic, make, kind = makers[chance.choices(range(4), (5, 5, 1, 1))[0]]
        if n % 6 == 0:
            good = Item(f"good{n}", NOW - 500, f"Thing {n} {CONTROL}")
            sent.append((topics.items, (good.item_id.encode(), CODEC.encode(good)), False))
        else:
            made = make()
            sent.append((topic, made, refused(kind, *made)))
    producer = KafkaProducer(world.settings)
    placed = [producer.send(topic, key, value) for topic, (key, value), _ in sent]
    positions = [future.result(120) for future in placed]
    producer.close()
    world.settle(refreshed=False)
    assert worker.runs

    dead_letters: dict[tuple[str, int, int], DeadLetter] = {}
    reasons: Counter[str] = Counter()
    for topic in {topic for topic, _, _ in sent}:
        for record in read_all(world.settings.kafka.servers, topics.dead_letters(topic)):
            one = CODEC.decode(DeadLetter, record.value or b"")
            if (one.topic, one.partition, one.offset) not in dead_letters:
                reasons[one.reason] += 1
            dead_letters[one.topic, one.partition, one.offset] = one
    found = Findings(checked=len(sent), dead_letters=len(dead_letters))
    for (_, made, bad), at in zip(sent, positions, strict=True):
        dead_letter = dead_letters.get((at.topic, at.partition, at.offset))
        if bad != (dead_letter is not None):
            found.lost.append(
                f"{at}: {'no dead_letter' if bad else 'a good record refused'}: {made[1] and made[1][:40]!r}"
            )
        elif dead_letter is not None and (dead_letter.key, dead_letter.value) != made:
            found.lost.append(f"{at}: other bytes")
    good_ids = [made[0].decode() for topic, made, bad in sent if not bad and made[0] and made[0].startswith(b"good")]
    for item_id in good_ids:
        found.checked += 1
        if not world.client.exists(f"f:v1:k:{item_id}"):
            found.lost.append(f"knowledge of {item_id}")
    bad_count = sum(bad for _, _, bad in sent)
    print(f"{bad_count} bad inputs of {len(mill.kinds)} kinds: {dict(reasons.most_common())}")
    ROWS.append(Row.of("poison", f"{bad_count:,} bad among {len(sent) - bad_count:,} good", len(mill.kinds), found))
    assert found.clean, str(found)
    assert bad_count > 0.9 * BAD
    assert len(reasons) >= 10


def test_a_flood_trips_the_limit(broker: KafkaServer, make_world: Callable[..., World]) -> None:
    """Catches a whole topic poured into its dead letters because a producer was deployed with another schema."""
    world = make_world(broker, partitions=1)
    producer = KafkaProducer(world.settings)
    good = [Item(f"i{n}", NOW - 500, f"Thing {n}") for n in range(200)]
    sent = [producer.send(world.topics.items, one.item_id.encode(), CODEC.encode(one)) for one in good]
    sent += [producer.send(world.topics.items, b"k", b"flood") for _ in range(3_000)]
    for future in sent:
        future.result(60)
    lanes = ("item-text", "sink")
    limited = world.worker(lanes, DEAD_LETTERS_RUN="500")
    assert limited.child is not None
    deadline = time.monotonic() + 90
    while limited.child.running and time.monotonic() < deadline:
        time.sleep(0.2)
    assert limited.child.returncode() == 1
    log = limited.log.read_text()
    assert "500 dead letters in a row" in log
    assert "freshet dlq list items.dlq" in log
    dead_letters = len(read_all(world.settings.kafka.servers, world.topics.dead_letters(world.topics.items)))
    assert 500 <= dead_letters <= 1_000
    raised = world.worker(lanes, DEAD_LETTERS_RUN="1000000", DEAD_LETTERS_RATIO="1")
    world.settle(refreshed=False)
    assert raised.runs
    assert world.client.zcard("f:v1:items") == len(good)
    found = {
        CODEC.decode(DeadLetter, record.value or b"").offset
        for record in read_all(world.settings.kafka.servers, world.topics.dead_letters(world.topics.items))
    }
    assert found == set(range(200, 3_200)), "after the limit was raised every one has its letter"
