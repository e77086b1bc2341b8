"""Knowledge that was distilled before, in Redis: by what it was made from, for items whose content comes again.

Owns the rows and their pointers, and how long they live. Must not decide what may be shared, nor ask a model. A view
like all of Redis: `item-knowledge` holds the same records, and the sink puts them back here.

A row stands under the fingerprint of content and recipe (prompts, model, schema), so two versions of one recipe share
it. What a version has once made of some content stays its answer: a pointer leads from the content to the row, past any
change of the recipe, until the version changes too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from freshet.blob import decode_knowledge, encode_knowledge
from freshet.connect import Client, keys_for
from freshet.layout import check_version
from freshet.records import Claim, ItemKnowledge, Provenance


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A row and how it was found: by this version's pointer for the content, by fingerprint, or by a sharing key."""

    knowledge: ItemKnowledge
    how: str


BY_CONTENT, BY_FINGERPRINT, BY_SHARING = "content", "fingerprint", "sharing"


class KnowledgeCache:
    """Reads and writes cached knowledge; safe to share between threads, and any call may be repeated.

    Rows and pointers expire `ttl_s` after they were last put, which bounds the size. Redis errors come through as
    redis-py raises them; a row that cannot be read (another release's) counts as absent.
    """

    def __init__(self, client: Client, prefix: str = "f", *, ttl_s: int = 90 * 86_400) -> None:
        self._redis = client
        self._keys = keys_for(client, prefix)
        self._ttl_ms = 1_000 * ttl_s

    def find(self, version: str, content: str, fingerprint: str, sharing: str = "") -> CacheEntry | None:
        """The best row for some content in `version`; an empty `sharing` key is not looked for.

        One round trip, and one more where a pointer leads to another row than `fingerprint`'s.
        """
        pointers = [self._keys.content_pointer(version, content)]
        if sharing:
            pointers.append(self._keys.sharing_pointer(version, sharing))
        first: Any = self._redis.mget([self._keys.cached_knowledge(fingerprint), *pointers])
        own, *ways = first
        by_content, by_sharing = _text(ways[0]), _text(ways[1]) if sharing else ""
        rows: dict[str, bytes | None] = {fingerprint: own}
        if other := [one for one in dict.fromkeys((by_content, by_sharing)) if one and one not in rows]:
            found: Any = self._redis.mget([self._keys.cached_knowledge(one) for one in other])
            rows |= dict(zip(other, found, strict=True))
        for how, name in ((BY_CONTENT, by_content), (BY_FINGERPRINT, fingerprint), (BY_SHARING, by_sharing)):
            if name and (knowledge := _record(rows[name])) is not None:
                return CacheEntry(knowledge, how)
        return None

    def put(self, records: Iterable[ItemKnowledge], sharing: Mapping[str, str] | None = None) -> None:
        """Store `records`, each as its version's answer to its content; only what is confirmed in Kafka belongs here.

        `sharing` maps item ids to sharing keys: the record becomes what near-duplicates share where it was made for
        this item, and where nothing is shared yet if it came from the cache. Records without fingerprints (of before
        there were any) are left out. Raises `BlobError` for one that has no stored form.
        """
        pipeline: Any = self._redis.pipeline(transaction=False)
        keys = self._keys
        for one in records:
            if not one.fingerprint or not one.content_fingerprint:
                continue
            pipeline.set(keys.cached_knowledge(one.fingerprint), encode_knowledge(one), px=self._ttl_ms)
            if not one.version:
                continue
            version = check_version(one.version)
            pointer = keys.content_pointer(version, one.content_fingerprint)
            pipeline.set(pointer, one.fingerprint, px=self._ttl_ms)
            if (key := (sharing or {}).get(one.item_id)) and not one.provenance.shared_from:
                known = one.provenance.origin != "fresh"
                pipeline.set(keys.sharing_pointer(version, key), one.fingerprint, px=self._ttl_ms, nx=known)
        if len(pipeline):
            pipeline.execute()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _record(blob: bytes | None) -> ItemKnowledge | None:
    """The record of a row, or None where it has fields this release does not know, or lacks some it must have."""
    try:
        decoded = decode_knowledge(blob)
        if decoded is None:
            return None
        document = dict(decoded[1])
        document["claims"] = tuple(Claim(**claim) for claim in document["claims"])
        document["provenance"] = Provenance(**_frozen(document["provenance"]))
        return ItemKnowledge(**_frozen(document))
    except (KeyError, TypeError, ValueError):
        return None


def _frozen(document: Mapping[str, Any]) -> dict[str, Any]:
    """Lists become tuples, as records hold them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in document.items()}
