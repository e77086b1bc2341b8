"""Every Redis key of Freshet, defined once; the page "Redis layout" of the docs describes the value of each.

Owns the names, and which bucket of a Redis Cluster an entity is in. Must not know what a value holds or talk to Redis.
"""

from __future__ import annotations

from functools import cache
from zlib import crc32

from redis.crc import key_slot

_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")

BUCKETS = 64
"""How many groups of keys a Redis Cluster holds: a request for 500 items is at most 64 `MGET`s, sent side by side."""
CONTROL_TAG = "{c}"
"""In a Redis Cluster, the hash tag of all keys that are not entities of a version: pointers, histories, queues."""


def check_name(name: str, what: str) -> str:
    """`name` if it may be part of a key; raises ValueError otherwise."""
    # An id comes last in its key and may hold anything, so only the parts before it are restricted.
    if not name or not _ALLOWED.issuperset(name):
        raise ValueError(f"{what} is {name!r}, wanted letters, digits, '-', '_' and '.'")
    return name


@cache
def bucket_tags() -> tuple[str, ...]:
    """The hash tag of each bucket of a Redis Cluster, such as `{0}`.

    Tag b is the smallest number whose slot is one of `256 b .. 256 b + 255`. That spreads the buckets evenly over the
    slots, and so over the nodes of a cluster with the usual contiguous slot ranges.
    """
    tags: dict[int, str] = {}
    number = 0
    while len(tags) < BUCKETS:
        tags.setdefault(key_slot(str(number).encode()) * BUCKETS // 16_384, f"{{{number}}}")
        number += 1
    return tuple(tags[bucket] for bucket in range(BUCKETS))


class Keys:
    """The keys under one prefix.

    In a Redis Cluster (`clustered`) each key has a hash tag. An entity has the tag of the bucket of its id, as do the
    indexes of the bucket; all other keys have `{c}`. On a single server there is one bucket, number 0, and no tag.

    Pointers, histories, the token budget and cached knowledge belong to no version, as they outlive each one. The
    second part of their keys is a word that `check_version` refuses as the name of a version.
    """

    __slots__ = ("_control", "_tags", "clustered", "prefix")

    def __init__(self, prefix: str = "f", *, clustered: bool = False) -> None:
        self.prefix: str = check_name(prefix, "the key prefix")
        self.clustered: bool = clustered
        self._tags = tuple(f":{tag}" for tag in bucket_tags()) if clustered else ("",)
        self._control = f"{CONTROL_TAG}:" if clustered else ""

    def __repr__(self) -> str:
        return f"Keys({self.prefix!r}, clustered={self.clustered})"

    @property
    def buckets(self) -> int:
        """How many buckets there are."""
        return len(self._tags)

    def bucket(self, entity_id: str) -> int:
        """The bucket of an item or user: CRC-32 of its UTF-8 id, modulo the number of buckets."""
        return crc32(entity_id.encode()) % BUCKETS if self.clustered else 0

    def item_stem(self, version: str, bucket: int = 0) -> str:
        """What stands before the id in the keys of this bucket's items."""
        return f"{self.prefix}:{version}:i{self._tags[bucket]}:"

    def user_stem(self, version: str, bucket: int = 0) -> str:
        """What stands before the id in the keys of this bucket's users."""
        return f"{self.prefix}:{version}:u{self._tags[bucket]}:"

    def knowledge_stem(self, version: str, bucket: int = 0) -> str:
        """What stands before the id in the keys of this bucket's knowledge."""
        return f"{self.prefix}:{version}:k{self._tags[bucket]}:"

    def version_stem(self, version: str) -> str:
        """What stands before everything else in the keys of a version; it holds no wildcard of a Redis pattern."""
        return f"{self.prefix}:{version}:"

    def users_stem(self, version: str) -> str:
        """What stands before bucket and id in the keys of all users of a version."""
        return f"{self.prefix}:{version}:u:"

    def active(self) -> str:
        """String: the version that rankers read."""
        return f"{self.prefix}:{self._control}active"

    def previous(self) -> str:
        """String: the version that rankers read before, to roll back to."""
        return f"{self.prefix}:{self._control}previous"

    def versions(self) -> str:
        """Sorted set: every version by server milliseconds of its creation, negative while it is being deleted."""
        return f"{self.prefix}:{self._control}versions"

    def manifest(self, version: str) -> str:
        """Hash: what the version is made of, by component; under `@component` when and by whom it was pinned."""
        return f"{self.prefix}:{version}:{self._control}manifest"

    def workers(self, version: str) -> str:
        """Hash: the workers that write the version, each with the server's milliseconds when it last reported."""
        return f"{self.prefix}:{version}:{self._control}workers"

    def item(self, version: str, item_id: str) -> str:
        """Blob: the vector of one item."""
        return f"{self.item_stem(version, self.bucket(item_id))}{item_id}"

    def user(self, version: str, user_id: str) -> str:
        """Blob: vectors and inferred behaviors of one user."""
        return f"{self.user_stem(version, self.bucket(user_id))}{user_id}"

    def knowledge(self, version: str, item_id: str) -> str:
        """Blob: the knowledge about one item, JSON after the header."""
        return f"{self.knowledge_stem(version, self.bucket(item_id))}{item_id}"

    def items(self, version: str, bucket: int = 0) -> str:
        """Sorted set: the id of every live item of a bucket by server milliseconds of its last write."""
        return f"{self.prefix}:{version}:items{self._tags[bucket]}"

    def deleted(self, version: str, bucket: int = 0) -> str:
        """Sorted set: ids of a bucket's recently deleted items by server milliseconds of the deletion."""
        return f"{self.prefix}:{version}:deleted{self._tags[bucket]}"

    def shape(self, version: str) -> str:
        """String: dims and dtype of every vector of the version, `128 float16`; set by its first write."""
        return f"{self.prefix}:{version}:{self._control}shape"

    def bucket_shape(self, version: str, bucket: int = 0) -> str:
        """String: the shape again, beside the entities of a bucket, where a write can check it."""
        return f"{self.prefix}:{version}:shape{self._tags[bucket]}"

    def retired(self, version: str, bucket: int = 0) -> str:
        """String: exists while the version is being deleted, so that writes of a late writer are refused."""
        return f"{self.prefix}:{version}:retired{self._tags[bucket]}"

    def fences(self, version: str) -> list[str]:
        """`retired` of every bucket."""
        return [self.retired(version, bucket) for bucket in range(self.buckets)]

    def cached_knowledge(self, fingerprint: str) -> str:
        """Blob: knowledge by the fingerprint of content and distillation config, shared between versions."""
        return f"{self.prefix}:{self._control}kc:{fingerprint}"

    def content_pointer(self, version: str, content: str) -> str:
        """String: the fingerprint of the knowledge that this version made of some content."""
        return f"{self.prefix}:{version}:{self._control}kp:{content}"

    def sharing_pointer(self, version: str, sharing: str) -> str:
        """String: the fingerprint of the knowledge that near-duplicates of this version share."""
        return f"{self.prefix}:{version}:{self._control}ks:{sharing}"

    def budget(self) -> str:
        """Hash: tokens spent in the current hour."""
        return f"{self.prefix}:{self._control}budget"

    def budget_held(self) -> str:
        """Hash: tokens set aside for calls in flight, by reservation."""
        return f"{self.prefix}:{self._control}budget-held"

    def history(self, user_id: str) -> str:
        """Sorted set: the newest events of one user by event time."""
        return f"{self.prefix}:{self._control}h:{user_id}"

    def erased(self) -> str:
        """Sorted set: SHA-1 of the id of every user that was erased, by the milliseconds up to which it was."""
        return f"{self.prefix}:{self._control}erased"

    def erasures_owed(self) -> str:
        """Sorted set: erased users whose dead letters must still be removed, by the time of the erasure."""
        return f"{self.prefix}:{self._control}erasures-owed"

    def refreshing(self) -> str:
        """Sorted set: the versions whose users new events enqueue for a refresh, by when a worker last reported so."""
        return f"{self.prefix}:{self._control}refreshing"

    def replays(self) -> str:
        """Hash: the state of each replay, JSON, by its job id."""
        return f"{self.prefix}:{self._control}replays"

    def rewriting(self, topic: str) -> str:
        """String: the lock of the job that removes records from a dead-letter topic."""
        return f"{self.prefix}:{self._control}rewriting:{topic}"

    def due(self, version: str) -> str:
        """Sorted set: users that may be refreshed now, by the time from which they may be and their activity."""
        return f"{self.prefix}:{version}:{self._control}due"

    def waiting(self, version: str) -> str:
        """Sorted set: users with new events, by the time from which they may be refreshed."""
        return f"{self.prefix}:{version}:{self._control}waiting"

    def leased(self, version: str) -> str:
        """Sorted set: users being refreshed, by the end of the lease."""
        return f"{self.prefix}:{version}:{self._control}leased"

    def refreshed(self, version: str) -> str:
        """Sorted set: recently refreshed users, by the time of the refresh."""
        return f"{self.prefix}:{version}:{self._control}refreshed"


_RESERVED = frozenset(
    {"h", "kc", "active", "previous", "versions", "refreshing", "replays", "rewriting", "erased", "erasures-owed"}
    | {"budget", "budget-held"}
    | {"due", "waiting", "leased", "refreshed"}  # an older release had one of each for all versions
)


def check_version(version: str) -> str:
    """`version` if it may name a feature version; raises ValueError otherwise."""
    if version in _RESERVED:
        raise ValueError(f"the version is {version!r}, a name that Freshet keeps for itself")
    return check_name(version, "the version")
