"""`docs/reference/redis-layout.md`, made from what names the keys and what reads and writes the bytes.

Owns the text around the tables. Must not be needed by anything but the page and its test.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np

from freshet import blob
from freshet.header import DELETED, FIELDS, FORMAT, HEADER, OFFSETS
from freshet.layout import BUCKETS, CONTROL_TAG, Keys, bucket_tags
from freshet.records import ItemFeatures
from freshet.vectors import DTYPES, FLOAT16
from store.feature_writer import KEYS_PER_CALL

PAGE = Path(__file__).parents[1] / "reference" / "redis-layout.md"

RANKER = (
    "ranker on >PASSWORD resetkeys %R~f:* -@all +get +mget +zrange +multi +exec +hello +client|setinfo +ping "
    "+cluster|slots +command"
)
"""The rights of a ranker; the last two only a Cluster's clients need."""
WORKER = (
    "worker on >PASSWORD resetkeys ~f:* -@all +@read +@write +@connection +@transaction -@dangerous "
    "+fcall +function|load +time +cluster|slots +command"
)
"""The rights of a worker. What its functions call is checked against them too."""

_TYPES = {"B": "u8", "H": "u16", "q": "i64", "i": "i32", "I": "u32"}
_NAMES = {"version": "<v>", "item_id": "<item>", "user_id": "<user>"}
_NO_KEYS = frozenset({"bucket", "fences"})


def key_table() -> str:
    """Every key by its name on a single server and in a Cluster, from the docstrings of `Keys`."""
    lines = ["| single server | Cluster | type | holds |", "|---|---|---|---|"]
    seen: set[str] = set()
    for name, method in vars(Keys).items():
        if not inspect.isfunction(method) or name.startswith("_") or name in _NO_KEYS or name.endswith("stem"):
            continue
        wanted = [one for one in inspect.signature(method).parameters if one not in {"self", "bucket"}]
        arguments = [_NAMES.get(one, f"<{one}>") for one in wanted]
        single, clustered = (
            re.sub(r"\{\d+\}", "{b}", method(Keys("p", clustered=one), *arguments)).replace("p:", "<p>:", 1)
            for one in (False, True)
        )
        kind, _, holds = " ".join((method.__doc__ or "").split()).rstrip(".").partition(": ")
        if kind == "Blob":
            kind, holds = "string", f"blob: {holds}"
        lines.append(
            f"| {'the same' if single in seen else f'`{single}`'} | `{clustered}` | {kind.lower()} | {holds} |"
        )
        seen.add(single)
    return "\n".join(lines)


def header_table() -> str:
    """The header, from its fields."""
    rows = zip(OFFSETS, FIELDS, strict=True)
    lines = [f"| {at} | {_TYPES[code]} | {name.replace('_', ' ')} | {about} |" for at, (name, code, about) in rows]
    return "\n".join(["| offset | type | field | meaning |", "|---|---|---|---|", *lines])


def dtype_table() -> str:
    """The dtypes and what a vector is in each."""
    lines = ["| number | dtype | bytes of a vector | a vector |", "|---|---|---|---|"]
    for one in DTYPES.values():
        fixed = one.size(1) - (each := one.size(2) - one.size(1))
        size = " + ".join(
            part for part in (str(fixed) if fixed else "", f"{each} x dims" if each > 1 else "dims") if part
        )
        lines.append(f"| {one.number} | `{one.name}` | {size} | {one.about} |")
    return "\n".join(lines)


def tag_table() -> str:
    """The hash tag of every bucket, eight a line."""
    tags = [tag.strip("{}") for tag in bucket_tags()]
    lines = ["| bucket | " + " | ".join(f"+{n}" for n in range(8)) + " |", "|---" * 9 + "|"]
    for start in range(0, BUCKETS, 8):
        lines.append(f"| {start} | " + " | ".join(f"`{{{tag}}}`" for tag in tags[start : start + 8]) + " |")
    return "\n".join(lines)


def bucket_examples() -> str:
    """Ids and their keys, to check another language's CRC by."""
    keys = Keys("f", clustered=True)
    lines = ["| item id | bucket | key |", "|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| `{one}` | {keys.bucket(one)} | `{keys.item('v1', one)}` |" for one in ("i1", "7", "茶"))]
    )


def example() -> str:
    """One item byte by byte."""
    values = np.array([1.0, -0.25, 0.125, 0.0], "<f2")
    record = ItemFeatures("i1", "v1", 2, 1_700_000_000_000, 1_700_000_000_005, 4, values.tobytes(), 3, 70)
    stored = blob.encode_item(record)
    header = blob.decode_header(stored)
    assert header is not None
    ends = [*OFFSETS[1:], HEADER.size]
    lines = [
        f"{stored[start:end].hex():18} {name.replace('_', ' ')} {value}"
        for start, end, (name, _, _), value in zip(OFFSETS, ends, FIELDS, header, strict=True)
    ]
    return "\n".join([*lines, f"{stored[HEADER.size :].hex():18} vector {', '.join(map(str, values.tolist()))}"])


def page() -> str:
    """`docs/reference/redis-layout.md`, whole."""
    return f"""# The Redis layout, byte by byte

<!-- made by python -m docs.generators.layout_page; a test compares -->

For readers without the Python SDK: everything that a ranker in Java, C++ or Go needs is on this page.
`sdk/src/freshet/layout.py` names the keys; `sdk/src/freshet/header.py`, `sdk/src/freshet/vectors.py` and
`sdk/src/freshet/blob.py` read and write the values; `store/lua/features.lua` decides which write wins. The server is
Redis 7 or later, or Valkey: a single one (with replicas, behind Sentinel or not) or a Cluster.
`tests/sdk/test_golden.py` has one value of every kind and dtype written out.

## Keys

`<p>` is the prefix (`FRESHET_KEY_PREFIX`, default `f`), `<v>` a feature version; both are letters, digits, `-`, `_` and
`.`. An id comes last in its key and may be any UTF-8 text. In a Cluster every key has a hash tag: `{{b}}` is the tag
of a bucket ([below](#cluster)), `{CONTROL_TAG}` is literal.

{key_table()}

A ranker needs the first key, `shape`, and the blobs of items and users; knowledge and the two indexes of items are for
other readers, and everything else belongs to the workers ([refresh queue](../design/refresh-queue.md),
[versions](../use/operators/versions.md)).

## Rights

A ranker needs only these rights; `zrange` and the transaction are for `changed_items`, `cluster` and `command` for a
Cluster:

    ACL SETUSER {RANKER}

A worker loads functions and deletes versions, and Redis checks what a function calls against the caller's rights. So a
worker needs more, again after `ACL SETUSER`:

    {WORKER}

## Reading without mixing versions

A key names its version, so a value is always of the version in its key. What a reader must check is that this version
is the active one.

**Single server**: one command, so that all its values are from the same point in time.

1. `MGET <p>:active <p>:<v>:shape <p>:<v>:u:<user> <p>:<v>:i:<item> ...`, where `<v>` is the version that was active
   last time (at the start: `GET <p>:active`).
2. If the first value is `<v>`, the answer is consistent. If not, another version was activated: repeat with
   that one.

**Cluster**: one `MGET <p>:{CONTROL_TAG}:active <p>:<v>:{CONTROL_TAG}:shape`, and one `MGET` for each bucket that the
user and the items are in, as `MGET` takes keys of one slot only; all are sent before the first answer is awaited.

1. Send them for the `<v>` that was active last time (at the start: `GET <p>:{CONTROL_TAG}:active`).
2. If the pointer is `<v>`, all values are of that version, though not from the same point in time. If not, repeat
   everything with the new one.
3. If a node does not answer in time, its values are missing, which is not the same as absent: report that, and rank
   with the rest. If the pointer's node does not answer, use the last known version.

A version keeps its values as long as it is active or can be rolled back to, so a second try is enough unless versions
are swapped twice. The value under `shape` is dims, a space and the dtype, such as `128 float16`. If it is missing, the
version has no vector yet.

## Cluster

The bucket of an item or user is the CRC-32 of the UTF-8 bytes of its id (zlib's, Java's `java.util.zip.CRC32`, Go's
`hash/crc32` with `IEEETable`), modulo {BUCKETS}. The tag of bucket b is the smallest decimal number n whose slot,
CRC-16 of n modulo 16384, is one of 256 b to 256 b + 255: so buckets are spread evenly over the nodes of a Cluster with
the usual contiguous ranges.

{tag_table()}

Check your implementation with these:

{bucket_examples()}

## Blob

Every number is little-endian; there is no padding. The header is {HEADER.size} bytes:

{header_table()}

After the header:

- **item**: its vector.
- **user**: the log vector, the inferred vector, then `n` inferred behaviors, in the reasoner's order, as three arrays:
  `n` x f32 confidence, `n` x u16 length of the item id in bytes, and the ids, UTF-8, one after the other. Behaviors in
  words alone, which a text reasoner may infer, are only in the topic `user-features`.
- **knowledge**: one JSON object, UTF-8, with the fields of the Avro contract `ItemKnowledge`.
- **deletion**: nothing. Treat it as an absent value.

A vector is stored in the dtype of its version (`FRESHET_VECTORS__DTYPE`):

{dtype_table()}

Knowledge and deletions have no vector, and dtype {FLOAT16.number}. A feature's age is now minus its event time.

A value is usable if its format is {FORMAT}, dtype and dims are the version's, flag {DELETED} is clear, and the length
is that of its kind: an item of 128 dims has {_sizes()}. In 64-bit terms, the first 8 bytes and
`0x{blob.LEAD_MASK:016X}` equal `0x0000<dims>0000<dtype>{FORMAT:02x}`.

An item of 4 dims, `float16`:

```
{example()}
```

## Newer wins

All writes of blobs go through the server-side function `freshet_put_<digest>` (library `freshet_features_<digest>`; the
digest is that of the Lua file, so that two releases can share a server). A write replaces what is there only if its
`(event time, tier, sequence)` is greater, compared in this order; the answer is 1 (written), 0 (same) or -1 (older).
A replay or a late retry therefore changes nothing, in whatever order calls arrive. A deletion stays as a tombstone with
tier 255, so that it wins over features of the same millisecond and a late retry does not restore what was deleted.

One call writes at most {KEYS_PER_CALL} keys of one version and one bucket, and none of them if a vector has another
shape than the version (`FRESHET_SHAPE`), or while the version is being deleted (`FRESHET_RETIRED`; a call of deletions
alone is answered 0).

## Time to live

| what | expires |
|---|---|
| users | `FRESHET_REDIS__FEATURE_TTL_S` after the last write |
| items | `FRESHET_REDIS__ITEM_TTL_S` after the last write; 0, the default, is never |
| knowledge | `FRESHET_REDIS__KNOWLEDGE_TTL_S` after the last write; 0, the default, is never |
| tombstones | `FRESHET_REDIS__FEATURE_TTL_S` after the deletion |
| histories | `FRESHET_REDIS__FEATURE_TTL_S` after the last event |
| cached knowledge and its pointers | a fixed time after the last use |
| the token budget | with its hour |

For a blob, only a write that is answered 1 renews the TTL. The indexes of items drop expired entries with the next
write to their bucket.
"""


def _sizes() -> str:
    sizes = [f"{HEADER.size + one.size(128)} bytes in {one.name}" for one in DTYPES.values()]
    return f"{', '.join(sizes[:-1])} and {sizes[-1]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
