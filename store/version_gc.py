"""Deletes a version that nobody needs, a little at a time: servers keep answering, and a run may be interrupted.

Owns the order of a deletion. Must not decide by itself which versions go, nor know Kafka: the caller deletes what else
belongs to a version in `before_forgetting`.
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
"""Writers notice within this time that a version is being deleted: one batch of the sink at most."""
FENCE_S = 86_400
"""For this long after an interrupted deletion nobody can write its version; a second attempt starts the time again."""
_KINDS = {b"i": "items", b"u": "users", b"k": "knowledge"}


def collectable(names: VersionNames) -> list[str]:
    """The versions deleted by default: older than the active one and not the previous one, or half deleted.

    A version newer than the active one may be filling right now: whoever abandons it must name it.
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
    """How many keys the version has, by kind: items, users, knowledge, other (indexes, pointers, tombstones)."""
    stem, pace, counts = keys_for(client, prefix).version_stem(version).encode(), pace or Pace(), Counter[str]()
    for node in nodes(client):
        for keys in scan(client, stem.decode() + "*", pace, node=node):
            counts.update(_KINDS.get(key[len(stem) :].partition(b":")[0], "other") for key in keys)
            progress(len(keys))
    return counts


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
    """Delete `version`; returns how many keys were deleted. Interrupted anywhere, it may be called again.

    Raises `VersionInUse` for the active and the previous one, and, unless `force`, for one that workers write or whose
    items were written within `live_s`. With `force` it makes the workers stop, and waits for them.

    1. Retire and fence it: from here on it can be neither activated nor written, even by a worker that has not noticed.
    2. Wait until its workers have stopped, or are dead.
    3. Delete its keys, again and again, until a walk that began `settle_s` after step 1 has found none.
    4. Call `before_forgetting`, then remove manifest and name: until then it is listed as being deleted.
    """
    versions, pace = Versions(client, prefix), pace or Pace()
    state = versions.overview().state(version)
    # `retire` refuses these itself, with a better reason than the age of a write.
    refused_anyway = state in ("active", "previous") or versions.workers(version, live_s=live_s)
    if not (force or refused_anyway or state == "retiring"):
        _refuse_written(client, prefix, version, live_s)
    versions.retire(version, force=force, live_s=live_s)  # 1
    # In a Cluster the name stands on one node and features on all: each bucket needs a fence that its node can see.
    _fence(client, prefix, version)
    fenced_at = time.monotonic()
    while versions.workers(version, live_s=live_s):  # 2
        time.sleep(0.2)
    deleted = 0
    while True:  # 3
        late = time.monotonic() >= fenced_at + settle_s
        swept = _sweep(client, prefix, version, pace, progress)
        deleted += swept
        if not swept and late:
            break
        if not swept:
            time.sleep(min(0.2, settle_s))
    before_forgetting()  # 4
    _fence(client, prefix, version, up=False)
    versions.forget(version)
    return deleted


def _fence(client: Client, prefix: str, version: str, *, up: bool = True) -> None:
    """Set, or remove, the keys that make the server refuse writes in each bucket; they expire after FENCE_S."""
    pipeline: Any = client.pipeline(transaction=False)
    for key in keys_for(client, prefix).fences(version):
        pipeline.set(key, "1", ex=FENCE_S) if up else pipeline.unlink(key)
    pipeline.execute()


def _sweep(client: Client, prefix: str, version: str, pace: Pace, progress: Callable[[int], None]) -> int:
    """Delete the keys that one walk finds; returns how many."""
    keys = keys_for(client, prefix)
    kept = {key.encode() for key in (keys.manifest(version), keys.workers(version), *keys.fences(version))}
    deleted = 0
    for node in nodes(client):
        for found in scan(client, keys.version_stem(version) + "*", pace, node=node):
            pipeline: Any = client.pipeline(transaction=False)
            for key in found:
                if key not in kept:
                    pipeline.unlink(key)  # DEL would free the memory on the thread that answers rankers
            if len(pipeline):
                step = sum(pipeline.execute())
                deleted += step
                progress(step)
    return deleted


def _refuse_written(client: Client, prefix: str, version: str, live_s: float) -> None:
    """Raise `VersionInUse` if an item was written within `live_s`."""
    # A writer that is no worker (a replay, a script) has no heartbeat: only its writes show it.
    age_s = time.time() - newest_write_ms(client, prefix, version) / 1_000
    if age_s < live_s:
        raise VersionInUse(
            f"an item of {version} was written {max(0.0, age_s):.0f} s ago: stop its writer and wait a minute, "
            "or use --force"
        )
