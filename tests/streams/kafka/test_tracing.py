"""Trace contexts: the platform's are followed, others follow from the position."""

from __future__ import annotations

from dataclasses import replace

from freshet.records import Item
from schemas.codec import Codec
from streams.kafka.record import SourceRecord
from streams.kafka.tracing import HEADER, child, trace_id
from streams.lanes.item_text import ItemText
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.support.fakes import NOW_MS, FakeClock
from tests.support.fakes_broker import FakeBroker, FakeProducer
from tests.support.fakes_encoder import FakeEncoder

RECORD = SourceRecord("items", 3, 7, 0, b"k", b"v")
TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_a_record_without_a_trace_has_one_by_its_position() -> None:
    """Catches a trace that changes with a redelivery, or that two records share."""
    assert trace_id(RECORD) == trace_id(replace(RECORD, value=b"other"))
    assert trace_id(RECORD) != trace_id(replace(RECORD, offset=8))
    assert len(trace_id(RECORD)) == 32


def test_the_platforms_trace_is_followed_if_it_is_one() -> None:
    """Catches a trace that ends at our door, and a header of a stranger that becomes part of a log line."""
    theirs = replace(RECORD, headers=((HEADER, f"00-{TRACE}-b7ad6b7169203331-01".encode()),))
    assert trace_id(theirs) == TRACE
    name, value = child(theirs, "item-text")
    assert name == HEADER
    assert value.decode().startswith(f"00-{TRACE}-")
    assert value != child(theirs, "item-distill")[1]
    assert trace_id(replace(RECORD, headers=((HEADER, value),))) == TRACE
    for hostile in (b"00-\x1b[31m-1-01", b"", None):
        assert trace_id(replace(RECORD, headers=((HEADER, hostile),))) == trace_id(RECORD)


async def test_what_is_published_carries_the_trace() -> None:
    """Catches a lane that forgets where a vector came from."""
    broker = FakeBroker()
    resources = Resources(Settings.load({}), clock=FakeClock(), producer=FakeProducer(broker), encoder=FakeEncoder())
    header = (HEADER, f"00-{TRACE}-b7ad6b7169203331-01".encode())
    record = broker.append("items", b"a", Codec().encode(Item("a", NOW_MS, "Tea")), headers=[header])
    await ItemText(resources).process([record])
    [made] = broker.logs["item-features-v1"]
    assert trace_id(made) == TRACE
