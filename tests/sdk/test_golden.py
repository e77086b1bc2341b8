"""One blob of every kind and dtype, written out: what other languages read, and what is stored already."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from freshet import blob
from freshet.blob import Shape
from freshet.records import InferredBehavior, ItemFeatures, ItemKnowledge, UserFeatures
from freshet.vectors import DTYPES

TIME = 1_700_000_000_000
LOG = np.array([1.0, -0.25, 0.125, 0.0], "<f2")
INFERRED = np.array([0.0, 2.0, 0.5, -2.0], "<f2")
ITEM = ItemFeatures("i1", "v1", 2, TIME, TIME + 5, 4, LOG.tobytes(), 3, 70)
USER = UserFeatures(
    "u1",
    "v1",
    2,
    TIME,
    TIME + 5,
    4,
    LOG.tobytes(),
    INFERRED.tobytes(),
    (InferredBehavior("i1", 0.75), InferredBehavior("ü", 0.25)),
    history_length=12,
    degraded=True,
)
KNOWLEDGE = ItemKnowledge("i1", TIME, TIME + 5, "f00", "Tea.", source_partition=3, source_offset=70)

ITEM_TIMES = "0068e5cf8b010000 0568e5cf8b010000 4600000000000000 03000000 00000000"
USER_TIMES = "0068e5cf8b010000 0568e5cf8b010000 0568e5cf8b010000 ffffffff 0c000000"
BEHAVIORS = "0000403f 0000803e 0200 0200 6931 c3bc"
ITEMS = {
    "float16": f"01 01 02 00 0400 0000 {ITEM_TIMES} 003c 00b4 0030 0000",
    "bfloat16": f"01 02 02 00 0400 0000 {ITEM_TIMES} 803f 80be 003e 0000",
    "int8": f"01 03 02 00 0400 0000 {ITEM_TIMES} 0402013c 7f e0 10 00",
}
USERS = {
    "float16": f"01 01 02 02 0400 0200 {USER_TIMES} 003c 00b4 0030 0000 0000 0040 0038 00c0 {BEHAVIORS}",
    "bfloat16": f"01 02 02 02 0400 0200 {USER_TIMES} 803f 80be 003e 0000 0000 0040 003f 00c0 {BEHAVIORS}",
    "int8": f"01 03 02 02 0400 0200 {USER_TIMES} 0402013c 7f e0 10 00 0402813c 00 7f 20 81 {BEHAVIORS}",
}
KNOWLEDGE_HEAD = f"01 01 02 00 0000 0000 {ITEM_TIMES}"
DELETION = "01 01 ff 01 0000 0000 0068e5cf8b010000 0068e5cf8b010000 0900000000000000 ffffffff 00000000"

# What int8 makes of LOG and INFERRED: steps of 1/127 and 2/127.
STEPPED = {
    "int8": ([1.0, -32 / 127, 16 / 127, 0.0], [0.0, 2.0, 64 / 127, -2.0]),
    "float16": (LOG.tolist(), INFERRED.tolist()),
    "bfloat16": (LOG.tolist(), INFERRED.tolist()),
}


@pytest.mark.parametrize("dtype", ITEMS)
def test_items(dtype: str) -> None:
    """Catches a byte of an item that moved, in what is written or in how what is stored is read."""
    stored = bytes.fromhex(ITEMS[dtype])
    assert blob.encode_item(ITEM, dtype) == stored
    rows = blob.decode_rows([stored], Shape(4, dtype))
    assert rows.vectors[0].tolist() == pytest.approx(STEPPED[dtype][0])
    assert [column.tolist() for column in rows[1:]] == [[True], [TIME], [2], [TIME + 5], [3], [70]]


@pytest.mark.parametrize("dtype", USERS)
def test_users(dtype: str) -> None:
    """Catches a byte of a user that moved, in either direction."""
    stored = bytes.fromhex(USERS[dtype])
    assert blob.encode_user(USER, dtype) == stored
    found = blob.decode_user(stored, Shape(4, dtype))
    assert found is not None
    assert found.log_vector.tolist() == pytest.approx(STEPPED[dtype][0])
    assert found.inferred_vector.tolist() == pytest.approx(STEPPED[dtype][1])
    assert found.behaviors == USER.behaviors
    assert found.header == (1, DTYPES[dtype].number, 2, 2, 4, 2, TIME, TIME + 5, TIME + 5, -1, 12)


def test_knowledge() -> None:
    """Catches a header before the JSON that moved, in either direction."""
    document = json.dumps(dataclasses.asdict(KNOWLEDGE), ensure_ascii=False, separators=(",", ":")).encode()
    assert blob.encode_knowledge(KNOWLEDGE) == bytes.fromhex(KNOWLEDGE_HEAD) + document
    found = blob.decode_knowledge(bytes.fromhex(KNOWLEDGE_HEAD) + '{"item_id":"i1","summary":"Thé"}'.encode())
    assert found is not None
    assert found[0] == (1, 1, 2, 0, 0, 0, TIME, TIME + 5, 70, 3, 0)
    assert found[1] == {"item_id": "i1", "summary": "Thé"}


def test_deletion() -> None:
    """Catches a mark of deletion that another release would take for a feature."""
    stored = bytes.fromhex(DELETION)
    assert blob.encode_deletion(TIME, 9) == stored
    header = blob.decode_header(stored)
    assert header == (1, 1, 255, 1, 0, 0, TIME, TIME, 9, -1, 0)
    assert header is not None
    assert header.deleted
    assert not blob.decode_rows([stored], Shape(4)).present[0]
    assert blob.decode_user(stored, Shape(4)) is None
    assert blob.decode_knowledge(stored) is None
