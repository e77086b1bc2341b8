"""How much of what rankers read now a version covers, and whether that is enough to activate it.

Owns the comparison, in steps small enough not to block a server, and the thresholds. Must not activate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from freshet.blob import BlobHeader
from freshet.clock import Clock, wall_clock
from freshet.connect import Client, keys_for
from freshet.layout import Keys
from store.scan import STEP, Pace, headers, nodes, scan
from store.versions import Pinned

LEAST_ITEMS, LEAST_USERS = 0.99, 0.95
"""Shares below which a version is not activated; lower for users, as one who returns rarely is refreshed on return."""
ACTIVE_WITHIN_S = 7 * 86_400.0
SAMPLE = 10_000
"""How many users, and how many items' ages, are compared: a share of 0.95 of this many is known within 0.004."""


@dataclass(slots=True)
class Share:
    """Of `looked_at` entities in the active version, how many the other version has (`covered`), and how fresh.

    `older` of the `compared` have features of an earlier event than in the active version; `age_s` is the median age
    of their events in seconds, infinite where there are none.
    """

    looked_at: int = 0
    covered: int = 0
    compared: int = 0
    older: int = 0
    _event_times: list[int] = field(default_factory=list, repr=False)
    _now_ms: int = 0

    @property
    def share(self) -> float:
        """`covered / looked_at`; 1 where the active version has nothing to cover."""
        return self.covered / self.looked_at if self.looked_at else 1.0

    @property
    def age_s(self) -> float:
        """Median age of the compared events in seconds."""
        return (self._now_ms - median(self._event_times)) / 1_000 if self._event_times else float("inf")

    def compare(self, theirs: BlobHeader | None, own: BlobHeader | None) -> bool:
        """Count one entity by its header in the active version and in the other; returns whether the other has it."""
        if own is None or own.deleted:
            return False
        self.compared += 1
        self.older += theirs is not None and own.event_time < theirs.event_time
        self._event_times.append(own.event_time)
        return True


@dataclass(frozen=True, slots=True)
class Coverage:
    """What `version` has of the live items and active users of `against`, and how many live items it has itself.

    Every live item is looked up; users and ages are sampled. Without an active version nothing is compared.
    """

    version: str
    against: str | None
    live_items: int
    items: Share
    users: Share


def coverage(
    client: Client,
    prefix: str,
    version: str,
    against: str | None,
    *,
    active_within_s: float = ACTIVE_WITHIN_S,
    sample: int = SAMPLE,
    pace: Pace | None = None,
    progress: Callable[[int], None] = lambda _: None,
    clock: Clock = wall_clock,
) -> Coverage:
    """Compare `version` with `against`; `progress` gets the number of entities in each step. Raises redis errors."""
    keys, now_ms = keys_for(client, prefix), clock()
    items, users = Share(_now_ms=now_ms), Share(_now_ms=now_ms)
    live = live_items(client, prefix, version)
    if against is not None:
        walk = _Walk(client, keys, version, against, sample, pace or Pace(), progress)
        walk.items(items)
        walk.users(users, now_ms - round(1_000 * active_within_s))
    return Coverage(version, against, live, items, users)


@dataclass(frozen=True, slots=True)
class _Walk:
    client: Client
    keys: Keys
    version: str
    against: str
    sample: int
    pace: Pace
    progress: Callable[[int], None]

    def items(self, share: Share) -> None:
        """Look up every live item in both indexes, bucket by bucket; compare the ages of the first `sample`."""
        for bucket in range(self.keys.buckets):
            for ids in self._index(self.keys.items(self.against, bucket)):
                scores: Any = self.client.zmscore(self.keys.items(self.version, bucket), ids)
                share.looked_at += len(ids)
                share.covered += sum(score is not None for score in scores)
                if share.compared < self.sample:
                    theirs, own = (self._item_headers(version, bucket, ids) for version in (self.against, self.version))
                    for pair in zip(theirs, own, strict=True):
                        share.compare(*pair)
                self.progress(len(ids))

    def users(self, share: Share, horizon_ms: int) -> None:
        """Compare a sample of users with an event since `horizon_ms`, an equal part from each node."""
        stem, own_stem = (self.keys.users_stem(version).encode() for version in (self.against, self.version))
        walked = nodes(self.client)
        for index, node in enumerate(walked):
            # Cumulative: what one node is short of, the next ones make up for.
            quota = (index + 1) * self.sample // len(walked)
            for keys in scan(self.client, stem.decode() + "*", self.pace, node=node):
                rows = zip(keys, headers(self.client, keys), strict=True)
                active = {
                    key: head for key, head in rows if head and not head.deleted and head.event_time >= horizon_ms
                }
                own = headers(self.client, [own_stem + key[len(stem) :] for key in active]) if active else []
                share.looked_at += len(active)
                share.covered += sum(map(share.compare, active.values(), own))
                self.progress(len(active))
                if share.looked_at >= quota:
                    break

    def _index(self, key: str) -> Iterator[Any]:
        """The ids in one index, step by step; ZRANGE would block the server for the whole catalogue."""
        cursor = 0
        while True:
            answer: Any = self.client.zscan(key, cursor, count=STEP)
            cursor, rows = answer
            self.pace.spend(STEP)
            if rows:
                yield [member for member, _ in rows]
            if not cursor:
                return

    def _item_headers(self, version: str, bucket: int, ids: list[bytes]) -> list[BlobHeader | None]:
        stem = self.keys.item_stem(version, bucket).encode()
        return headers(self.client, [stem + item_id for item_id in ids])


def unfit(
    measured: Coverage,
    manifest: Mapping[str, Pinned],
    shape: str,
    required: Mapping[str, str],
    *,
    least_items: float = LEAST_ITEMS,
    least_users: float = LEAST_USERS,
) -> list[str]:
    """Why rankers should not read the version yet, one sentence for each reason with its remedy; empty if they may.

    `shape` is the dims and dtype of the stored vectors, `128 float16`, "" where there are none; `required` are the
    components without which its items and users cannot be compared, each with the lanes that pin it, in words.
    """
    version, reasons = measured.version, []
    if missing := [name for name in required if name not in manifest]:
        lanes = "; ".join(f"{name} by the lane {required[name]}" for name in missing)
        reasons.append(f"nobody has pinned {lanes}: run a worker with FRESHET_VERSION={version}")
    pinned = " ".join(manifest[name].value for name in ("dims", "dtype") if name in manifest)
    if shape and len(pinned.split()) == 2 and shape != pinned:
        reasons.append(f"its vectors are {shape} and its manifest says {pinned}: delete it and fill another")
    for what, share, least in (
        ("live items", measured.items, least_items),
        ("active users", measured.users, least_users),
    ):
        if share.share < least:
            reasons.append(
                f"it has {share.covered:,} of {share.looked_at:,} {what} of {measured.against}, {share.share:.2%}, "
                f"wanted {least:.2%}: keep its worker running, and `freshet replay --into {version} --execute`"
            )
    return reasons


def shape_of(client: Client, prefix: str, version: str) -> str:
    """Dims and dtype of the version's vectors, "" before the first."""
    shape: Any = client.get(keys_for(client, prefix).shape(version))
    return shape.decode() if shape else ""


def newest_write_ms(client: Client, prefix: str, version: str) -> int:
    """Server time of the last write of an item, epoch milliseconds, 0 where there is none."""
    keys = keys_for(client, prefix)
    pipeline: Any = client.pipeline(transaction=False)
    for bucket in range(keys.buckets):
        pipeline.zrange(keys.items(version, bucket), -1, -1, withscores=True)
    return max((int(rows[0][1]) for rows in pipeline.execute() if rows), default=0)


def live_items(client: Client, prefix: str, version: str) -> int:
    """How many live (not deleted) items the version has."""
    keys = keys_for(client, prefix)
    pipeline: Any = client.pipeline(transaction=False)
    for bucket in range(keys.buckets):
        pipeline.zcard(keys.items(version, bucket))
    return sum(pipeline.execute())
