"""Deleting a version that nobody needs, a little at a time: the servers go on answering, and so does a second attempt.

Owns the order of a deletion. Must not decide by itself which versions go, nor know Kafka: `before_forgetting` does what
else belongs to a version.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from freshet.connect import Client, keys_for
from store.coverage import newest_write_ms
from store.scan import Pace, nodes, scan
from store.versions import LIVE_S, VersionInUse, VersionNames, Versions

SETTLE_S = 5.0
"""Writers learn within this time that a version is being deleted: one batch of the sink, at most."""
FENCE_S = 86_400
"""So long after a deletion that was broken off its version can not be written; a second attempt begins anew."""
_KINDS = {b"i": "items", b"u": "users", b"k": "knowledge"}


def collectable(names: VersionNames) -> list[str]:
    """The versions that go unless others are named: older than the active one and not the previous, or half deleted.

    A version younger than the active one may be filling right now: whoever gave it up names it.
    """
    return [name for name in names.all if names.state(name) in ("old", "retiring")]


def census(
    client: Client,
    prefix: str,
    version: str,
    *,
    pace: Pace | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Counter[str]:
    """How many keys the version has, by kind: items, users, knowledge, other (indexes, pointers, marks)."""
    stem, pace, found = keys_for(client, prefix).version_stem(version).encode(), pace or Pace(), Counter[str]()
    for node in nodes(client):
        for keys in scan(client, stem.decode() + "*", pace, node=node):
            found.update(_KINDS.get(key[len(stem) :].partition(b":")[0], "other") for key in keys)
            progress(len(keys))
    return found


def collect(
    client: Client,
    prefix: str,
    version: str,
    *,
    force: bool = False,
    pace: Pace | None = None,
    settle_s: float = SETTLE_S,
    live_s: float = LIVE_S,
    progress: Callable[[int], None] = lambda _: None,
    before_forgetting: Callable[[], None] = lambda: None,
) -> int:
    """Delete `version`; answers how many keys went. Interrupted anywhere, it may be called again.

    Raises `VersionInUse` for the active and the previous one, and, unless `force`, for one that workers write or whose
    items were written within `live_s`. With `force` its workers are made to stop, and waited for.

    1. Mark it: from here on it can be neither activated nor written, by a worker that looks or by one that does not.
    2. Wait until its workers have stopped, or are dead.
    3. Delete its keys, again and again until a walk that began `settle_s` after the mark has found none.
    4. Do what else belongs to it, then forget manifest and name: until then it is listed, as being deleted.
    """
    versions, pace = Versions(client, prefix), pace or Pace()
    state = versions.overview().state(version)
    in_the_way = state in ("active", "previous") or versions.workers(version, live_s=live_s)
    if not (force or in_the_way or state == "retiring"):
        _refuse_written(client, prefix, version, live_s)
    versions.retire(version, force=force, live_s=live_s)  # 1
    _fence(client, prefix, version)
    marked = time.monotonic()
    while versions.workers(version, live_s=live_s):  # 2
        time.sleep(0.2)
    deleted = 0
    while True:  # 3
        late = time.monotonic() >= marked + settle_s
        gone = _sweep(client, prefix, version, pace, progress)
        deleted += gone
        if not gone and late:
            break
        if not gone:
            time.sleep(min(0.2, settle_s))
    before_forgetting()  # 4
    _fence(client, prefix, version, up=False)
    versions.forget(version)
    return deleted


def _fence(client: Client, prefix: str, version: str, *, up: bool = True) -> None:
    """Put up, or take down, what makes the server refuse writes in each bucket; it falls by itself after FENCE_S."""
    pipeline: Any = client.pipeline(transaction=False)
    for key in keys_for(client, prefix).fences(version):
        pipeline.set(key, "1", ex=FENCE_S) if up else pipeline.unlink(key)
    pipeline.execute()


def _sweep(client: Client, prefix: str, version: str, pace: Pace, progress: Callable[[int], None]) -> int:
    """Delete what one walk finds; UNLINK frees the memory on a thread of the server's own."""
    keys = keys_for(client, prefix)
    kept = {key.encode() for key in (keys.manifest(version), keys.workers(version), *keys.fences(version))}
    gone = 0
    for node in nodes(client):
        for found in scan(client, keys.version_stem(version) + "*", pace, node=node):
            pipeline: Any = client.pipeline(transaction=False)
            for key in found:
                if key not in kept:
                    pipeline.unlink(key)
            if len(pipeline):
                step = sum(pipeline.execute())
                gone += step
                progress(step)
    return gone


def _refuse_written(client: Client, prefix: str, version: str, live_s: float) -> None:
    """A writer that is no worker (a replay, a script) shows only by what it writes."""
    age_s = time.time() - newest_write_ms(client, prefix, version) / 1_000
    if age_s < live_s:
        raise VersionInUse(
            f"an item of {version} was written {max(0.0, age_s):.0f} s ago: stop who writes it and wait a minute, "
            "or use --force"
        )
