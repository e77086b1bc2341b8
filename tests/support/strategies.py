"""Hypothesis strategies of the records, with the awkward values of every Avro type."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from freshet.records import (
    Claim,
    DeadLetter,
    Erasure,
    Header,
    InferredBehavior,
    Item,
    ItemFeatures,
    ItemKnowledge,
    Provenance,
    Record,
    UserEvent,
    UserFeatures,
)

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
ints = st.integers(-(2**31), 2**31 - 1)
longs = st.integers(-(2**63), 2**63 - 1)
# Apache's reader makes a datetime of a timestamp, so its years are bounded by Python's.
times = st.integers(-62_135_596_800_000, 253_402_300_799_999)
doubles = st.floats(allow_nan=False)
floats = st.floats(width=32, allow_nan=False)
blobs = st.binary(max_size=20)
maps = st.dictionaries(text, text, max_size=3)


def _tuples(of: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(of, max_size=3).map(tuple)


_claims = st.builds(Claim, text, text, text, st.none() | text, st.booleans(), st.none() | text)
_provenances = st.builds(
    Provenance, _tuples(text), maps, text, text, longs, longs, ints, doubles, text, text, _tuples(text), text
)
_behaviors = st.builds(InferredBehavior, text, floats, text)
_headers = st.builds(Header, text, st.none() | blobs)

items = st.builds(Item, text, times, text, text, text, _tuples(text), maps, st.none() | doubles)
events = st.builds(UserEvent, text, text, text, times, text, st.none() | doubles)
knowledge = st.builds(
    ItemKnowledge,
    *(text, times, times, text, text, _tuples(_claims), _provenances, ints, longs),
    *(_tuples(text), _tuples(text), _tuples(text), text, text),
)
item_features = st.builds(ItemFeatures, text, text, ints, times, times, ints, blobs, ints, longs)
user_features = st.builds(
    UserFeatures, text, text, ints, times, times, ints, blobs, blobs, _tuples(_behaviors), text, ints, st.booleans()
)
erasures = st.builds(Erasure, text, times)
dead_letters = st.builds(
    DeadLetter,
    topic=text,
    partition=ints,
    offset=longs,
    timestamp=times,
    key=st.none() | blobs,
    value=st.none() | blobs,
    headers=_tuples(_headers),
    reason=text,
    stage=text,
    attempt=ints,
    exception=text,
    message=text,
    schema_id=text,
    failed_time=times,
    output=text,
)

BY_KIND: dict[type[Record], st.SearchStrategy[Any]] = {
    Item: items,
    UserEvent: events,
    ItemKnowledge: knowledge,
    ItemFeatures: item_features,
    UserFeatures: user_features,
    DeadLetter: dead_letters,
    Erasure: erasures,
}
records = st.one_of(*BY_KIND.values())
