"""Every Redis key of Freshet, defined once; `docs/redis-layout.md` describes what stands under each.

Owns names only. Must not know what a value holds, nor talk to Redis.
"""

from __future__ import annotations

_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def check_name(name: str, what: str) -> str:
    """`name` if it may be part of a key: an id comes last in its key, so only the parts before it are restricted."""
    if not name or not _ALLOWED.issuperset(name):
        raise ValueError(f"{what} is {name!r}, wanted letters, digits, '-', '_' and '.'")
    return name


class Keys:
    """The keys under one prefix.

    Pointer, histories, due-set, budget and cached knowledge belong to no version, as they outlive any one of them; the
    second part of their keys is a word that `check_version` refuses as a version.
    """

    __slots__ = ("prefix",)

    def __init__(self, prefix: str = "f") -> None:
        self.prefix = check_name(prefix, "the key prefix")

    def __repr__(self) -> str:
        return f"Keys({self.prefix!r})"

    def active(self) -> str:
        """String: the version that rankers read."""
        return f"{self.prefix}:active"

    def item(self, version: str, item_id: str) -> str:
        """Blob: the vector of one item."""
        return f"{self.prefix}:{version}:i:{item_id}"

    def user(self, version: str, user_id: str) -> str:
        """Blob: vectors and inferred behaviours of one user."""
        return f"{self.prefix}:{version}:u:{user_id}"

    def knowledge(self, version: str, item_id: str) -> str:
        """Blob: the knowledge about one item, JSON after the header."""
        return f"{self.prefix}:{version}:k:{item_id}"

    def items(self, version: str) -> str:
        """Sorted set: every live item's id by server milliseconds of its last write."""
        return f"{self.prefix}:{version}:items"

    def deleted(self, version: str) -> str:
        """Sorted set: ids of items deleted lately by server milliseconds of the deletion."""
        return f"{self.prefix}:{version}:deleted"

    def dims(self, version: str) -> str:
        """String: dimensions of every vector of the version, set by its first write."""
        return f"{self.prefix}:{version}:dims"

    def cached_knowledge(self, fingerprint: str) -> str:
        """Blob: knowledge by the fingerprint of content and recipe, shared between versions."""
        return f"{self.prefix}:kc:{fingerprint}"

    def content_pointer(self, version: str, content: str) -> str:
        """String: the fingerprint of the knowledge that this version made of some content."""
        return f"{self.prefix}:{version}:kp:{content}"

    def sharing_pointer(self, version: str, sharing: str) -> str:
        """String: the fingerprint of the knowledge that near-duplicates of this version share."""
        return f"{self.prefix}:{version}:ks:{sharing}"

    def budget(self) -> str:
        """Hash: tokens spent in the hour that runs."""
        return f"{self.prefix}:budget"

    def budget_held(self) -> str:
        """Hash: tokens set aside for calls under way, by reservation."""
        return f"{self.prefix}:budget-held"

    def history(self, user_id: str) -> str:
        """Sorted set: the newest events of one user by event time."""
        return f"{self.prefix}:h:{user_id}"

    def due(self) -> str:
        """Sorted set: users that may be refreshed now, by the moment they became due and their activity."""
        return f"{self.prefix}:due"

    def waiting(self) -> str:
        """Sorted set: users with new events, by the moment from which they may be refreshed."""
        return f"{self.prefix}:waiting"

    def leased(self) -> str:
        """Sorted set: users being refreshed, by the end of the lease."""
        return f"{self.prefix}:leased"

    def refreshed(self) -> str:
        """Sorted set: users refreshed lately, by when."""
        return f"{self.prefix}:refreshed"


_RESERVED = frozenset({"h", "kc", "active", "due", "waiting", "leased", "refreshed", "budget", "budget-held"})


def check_version(version: str) -> str:
    """`version` if it may name a feature version; raises ValueError otherwise."""
    if version in _RESERVED:
        raise ValueError(f"the version is {version!r}, a name that Freshet keeps for itself")
    return check_name(version, "the version")
