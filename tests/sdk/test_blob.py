"""The blob's bytes: as documented, in both directions, and as they look when another hand was at them."""

from __future__ import annotations

import dataclasses
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freshet import blob
from freshet.blob import HEADER, BlobError, BlobHeader, Shape
from freshet.header import FIELDS, OFFSETS
from freshet.records import Claim, InferredBehavior, ItemKnowledge, Provenance
from freshet.vectors import DTYPES
from tests.support.fakes import NOW_MS
from tests.support.samples import DIMS, item, user, vector


def test_item_bytes_are_those_of_the_documentation() -> None:
    """Catches a header that moved: a ranker in another language reads it by offset."""
    data = blob.encode_item(item(value=2.0, tier=2))
    assert len(data) == 40 + 2 * DIMS
    assert data[:8] == bytes([1, 1, 2, 0, DIMS, 0, 0, 0])
    assert struct.unpack_from("<qqq", data, 8) == (NOW_MS, NOW_MS + 5, 70)
    assert struct.unpack_from("<iI", data, 32) == (3, 0)
    assert data[40:] == b"\x00\x40" * DIMS  # 2.0 as float16


def test_user_bytes_are_those_of_the_documentation() -> None:
    """Catches behaviors that another language would look for elsewhere."""
    data = blob.encode_user(user(value=2.0, degraded=True))
    assert data[:8] == bytes([1, 1, 2, 2, DIMS, 0, 2, 0])
    assert struct.unpack_from("<qqq", data, 8) == (NOW_MS, NOW_MS + 5, NOW_MS + 5)
    assert struct.unpack_from("<iI", data, 32) == (-1, 12)
    at = 40 + 4 * DIMS
    assert data[40:at] == b"\x00\x40" * DIMS + b"\x00\xc0" * DIMS
    assert data[at:] == struct.pack("<ffHH", 0.75, 0.25, 2, 2) + b"i1" + "ü".encode()


def test_deletion_is_a_header_that_wins_its_millisecond() -> None:
    """Catches a deletion that a feature of the same event time overrules."""
    data = blob.encode_deletion(NOW_MS, 9)
    assert data == bytes([1, 1, 255, 1, 0, 0, 0, 0]) + struct.pack("<qqqiI", NOW_MS, NOW_MS, 9, -1, 0)


@given(st.integers(1, 4096), st.sampled_from(sorted(DTYPES)), st.data())
def test_rows_come_back(dims: int, dtype: str, data: Any) -> None:
    """Catches a row, a mask bit or a time in the wrong place, at any width and dtype and with any gaps."""
    kinds = data.draw(st.lists(st.sampled_from(["item", "none", "deleted", *ALIEN]), max_size=8))
    made = {"none": None, "deleted": blob.encode_deletion(NOW_MS, 1)} | aliens(dims, dtype)

    def made_of(row: int) -> bytes:
        times = {"event_time": row, "computed_time": 2 * row, "source_offset": row}
        return blob.encode_item(item(value=row, dims=dims, tier=1 + row % 2, **times), dtype)

    blobs = [made_of(row) if kind == "item" else made[kind] for row, kind in enumerate(kinds)]
    out = np.full((len(kinds) + data.draw(st.integers(0, 2)), dims), 9.0, np.float32)
    for rows in (blob.decode_rows(blobs, Shape(dims, dtype)), blob.decode_rows(tuple(blobs), Shape(dims, dtype), out)):
        assert rows.vectors.shape == (len(kinds), dims)
        assert rows.vectors.dtype == np.float32
        for row, kind in enumerate(kinds):
            here = kind == "item"
            assert rows.present[row] == here
            assert rows.vectors[row] == pytest.approx(row if here else 0, rel=2.0**-8)
            columns = (rows.event_time, rows.tier, rows.computed_time, rows.source_partition, rows.source_offset)
            wanted = (row, 1 + row % 2, 2 * row, 3, row) if here else (0, 0, 0, 0, 0)
            assert tuple(int(column[row]) for column in columns) == wanted
    assert rows.vectors.base is out
    assert (out[len(kinds) :] == 9.0).all()


ALIEN = ("wide", "format", "dtype", "short")


def aliens(dims: int, dtype: str) -> dict[str, bytes]:
    """What another release or another hand may have put there."""
    good = blob.encode_item(item(dims=dims), dtype)
    return {
        "wide": blob.encode_item(item(dims=dims % 4096 + 1), dtype),
        "format": b"\x09" + good[1:],
        "dtype": good[:1] + bytes([DTYPES[dtype].number + 1]) + good[2:],
        "short": good[:-1],
    }


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((1, DIMS), np.float32),
        np.zeros((2, DIMS + 1), np.float32),
        np.zeros((2, DIMS), np.float64),
        np.zeros(2 * DIMS, np.float32),
        np.zeros((2, 2 * DIMS), np.float32)[:, ::2],
    ],
)
def test_an_array_that_cannot_take_the_rows_is_refused(out: Any) -> None:
    """Catches vectors written into a copy that nobody reads, or past a row's end."""
    with pytest.raises(ValueError, match="out is"):
        blob.decode_rows([blob.encode_item(item())] * 2, Shape(DIMS), out)


def test_a_dtype_of_a_later_release_is_absent() -> None:
    """Catches a ranker that fails, or reads noise, when an operator activates what it does not know."""
    later = Shape.parse(b"8 float8")
    stored = [blob.encode_item(item(dims=8)), None]
    rows = blob.decode_rows(stored, later)
    assert rows.vectors.shape == (2, 8)
    assert not rows.present.any()
    assert blob.decode_user(blob.encode_user(user(dims=8)), later) is None


def test_the_header_is_what_its_table_says() -> None:
    """Catches a field that the documentation, the tuple and the bytes place differently."""
    assert tuple(name for name, _, _ in FIELDS) == BlobHeader._fields
    assert HEADER.size == 40
    assert OFFSETS == (0, 1, 2, 3, 4, 6, 8, 16, 24, 32, 36)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_the_first_record_that_cannot_be_stored_is_named(dtype: str) -> None:
    """Catches a lane that sets a good record aside for a bad one in its batch."""
    items = [item(), item("i2", dims=2 * DIMS), item("i3", value=float("nan")), item("i4", vector=b"")]
    with pytest.raises(BlobError, match="4 float16") as caught:
        blob.encode_items([*items[:2], item("i4", dims=4, vector=b"")], dtype)
    assert caught.value.index == 2
    with pytest.raises(BlobError, match="not finite") as caught:
        blob.encode_items(items[:3], dtype)
    assert caught.value.index == 2
    users = [user(), user("u2", inferred_vector=vector(float("inf")))]
    with pytest.raises(BlobError, match="not finite") as caught:
        blob.encode_users(users, dtype)
    assert caught.value.index == 1


def test_lengths_that_cancel_out_are_noticed() -> None:
    """Catches rows read across their borders where a longer and a shorter one add up to two."""
    good = blob.encode_item(item(value=3.0))
    rows = blob.decode_rows([good, good + b"xx", good[:-2], good], Shape(DIMS))
    assert rows.present.tolist() == [True, False, False, True]
    assert rows.vectors[:, 0].tolist() == [3.0, 0.0, 0.0, 3.0]


def test_every_finite_float16_decodes_exactly() -> None:
    """Catches a wrong table: all 63,488 finite values, subnormals and both zeros included."""
    values = np.arange(65536, dtype=np.uint16).view(np.float16)
    values = values[np.isfinite(values)][: 62 * 1024].reshape(-1, 1024)
    blobs = [blob.encode_item(item(dims=1024, vector=row.tobytes())) for row in values]
    decoded = blob.decode_rows(blobs, Shape(1024)).vectors
    assert (decoded.view(np.uint32) == values.astype(np.float32).view(np.uint32)).all()


def test_behaviors_in_words_stay_out_of_the_blob() -> None:
    """Catches an empty item id in front of a ranker, or confidences that shift to the next item."""
    given_user = user(behaviors=(InferredBehavior("", 0.9, "flight"), InferredBehavior("i1", 0.5)))
    found = blob.decode_user(blob.encode_user(given_user), Shape(DIMS))
    assert found is not None
    assert found.behaviors == (InferredBehavior("i1", 0.5),)


@given(
    st.lists(st.tuples(st.text(st.characters(exclude_categories=("Cs",))), st.floats(0, 1, width=32)), max_size=9),
    st.sampled_from(sorted(DTYPES)),
)
def test_users_come_back(behaviors: list[tuple[str, float]], dtype: str) -> None:
    """Catches behaviors cut at the wrong byte: ids of any language, empty ones, none at all."""
    given_user = user(value=0.5, behaviors=tuple(InferredBehavior(*one) for one in behaviors))
    found = blob.decode_user(blob.encode_user(given_user, dtype), Shape(DIMS, dtype))
    assert found is not None
    assert found.behaviors == given_user.behaviors
    assert found.log_vector.tolist() == pytest.approx([0.5] * DIMS)
    assert found.inferred_vector.tolist() == pytest.approx([-0.5] * DIMS)
    assert found.header.history_length == 12


@given(st.data())
def test_a_damaged_user_is_absent_or_readable(data: Any) -> None:
    """Catches one damaged key that makes every ranking of that user fail."""
    damaged = bytearray(blob.encode_user(user()))
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    found = blob.decode_user(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]), Shape(DIMS))
    assert found is None or found.log_vector.shape == (DIMS,)


def test_knowledge_comes_back_as_json() -> None:
    """Catches a field of the contract that the JSON lost."""
    claims = (Claim("audience", "who", "tea drinkers – all", None, True),)
    knowledge = ItemKnowledge("i1", NOW_MS, NOW_MS, "f00", "Tea.", claims, Provenance(agents=("analyst",), model="m"))
    found = blob.decode_knowledge(blob.encode_knowledge(knowledge))
    assert found is not None
    header, document = found
    assert (header.tier, header.dims, header.event_time) == (2, 0, NOW_MS)
    assert document == json.loads(json.dumps(dataclasses.asdict(knowledge)))
    assert document["claims"][0]["value"] == "tea drinkers – all"


@pytest.mark.parametrize(
    ("encode", "record"),
    [
        (blob.encode_item, item(vector=vector(1.0)[:-1])),
        (blob.encode_item, item(dims=0, vector=b"")),
        (blob.encode_item, item(dims=5000, vector=bytes(10_000))),
        (blob.encode_item, item(value=float("nan"))),
        (blob.encode_item, item(value=float("inf"))),
        (blob.encode_item, item(tier=255)),
        (blob.encode_item, item(tier=-1)),
        (blob.encode_item, item(event_time=2**63)),
        (blob.encode_user, user(inferred_vector=b"")),
        (blob.encode_user, user(behaviors=(InferredBehavior("i", float("nan")),))),
        (blob.encode_user, user(behaviors=(InferredBehavior("i" * 70_000, 0.5),))),
        (blob.encode_user, user(behaviors=(InferredBehavior("i", 0.5),) * 70_000)),
        (blob.encode_user, user(behaviors=(InferredBehavior("\ud800", 0.5),))),
    ],
)
def test_what_a_ranker_could_not_use_is_refused(encode: Any, record: Any) -> None:
    """Catches a NaN, a half vector or an overflow on its way to every ranking that asks for it."""
    with pytest.raises(BlobError):
        encode(record)
