"""One record's way through the lanes: a W3C trace context in the headers of everything that is made of it.

Owns the header `traceparent`. A platform that sends one is followed; a record without one gets a trace id that its
position alone decides, so that whoever has the position finds the trace. Must not collect spans.
"""

from __future__ import annotations

import hashlib
import re

from streams.kafka.record import SourceRecord

HEADER = "traceparent"
_FORM = re.compile(rb"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def trace_id(record: SourceRecord) -> str:
    """The trace that a record belongs to, 32 hexadecimal digits."""
    for name, value in record.headers:
        if name == HEADER and value is not None and (found := _FORM.fullmatch(value)):
            return found[1].decode()
    place = f"{record.topic}/{record.partition}/{record.offset}"
    return hashlib.sha256(place.encode()).hexdigest()[:32]


def child(record: SourceRecord, step: str) -> tuple[str, bytes]:
    """The header of what `step` makes of `record`."""
    trace = trace_id(record)
    span = hashlib.sha256(f"{trace}/{step}/{record.topic}/{record.partition}/{record.offset}".encode()).hexdigest()[:16]
    return HEADER, f"00-{trace}-{span}-01".encode()
