"""A cache in Redis of distilled knowledge, keyed by what it was made from, for item content that comes again.

Owns the rows and their pointers, and how long they live. Must not decide what may be shared, nor ask a model. A view
like all of Redis: `item-knowledge` holds the same records, and the sink puts them back here.

A row is keyed by the fingerprint of content and distillation config (prompts, model, schema), so versions of the same
config share it. What a version once made of some content stays its result: a pointer leads from the content to the row,
whatever becomes of the config, until the version changes too.
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
    """A row, and how it was found: by the version's pointer for the content, by fingerprint, or by a sharing key."""

    knowledge: ItemKnowledge
    how: str


TTL_S = 90 * 86_400
"""How long cached knowledge lives without being used."""
BY_CONTENT, BY_FINGERPRINT, BY_SHARING = "content", "fingerprint", "sharing"


class KnowledgeCache:
    """Reads and writes cached knowledge; safe to share between threads, and any call may be repeated.

    Rows and pointers expire `ttl_s` after their last `put`, which bounds the size. Redis errors come through as
    redis-py raises them; a row that cannot be read (written by another release) counts as absent.
    """

    def __init__(self, client: Client, prefix: str = "f", *, ttl_s: int = TTL_S) -> None:
        self._redis = client
        self._keys = keys_for(client, prefix)
        self._ttl_ms = 1_000 * ttl_s

    def find(self, version: str, content: str, fingerprint: str, sharing: str = "") -> CacheEntry | None:
        """The best row for some content in `version`; an empty `sharing` key is not looked up.

        One round trip, and a second one if a pointer leads to another row than `fingerprint`'s.
        """
        pointers = [self._keys.content_pointer(version, content)]
        if sharing:
            pointers.append(self._keys.sharing_pointer(version, sharing))
        first: Any = self._redis.mget([self._keys.cached_knowledge(fingerprint), *pointers])
        own, *targets = first
        by_content, by_sharing = _text(targets[0]), _text(targets[1]) if sharing else ""
        rows: dict[str, bytes | None] = {fingerprint: own}
        if others := [target for target in dict.fromkeys((by_content, by_sharing)) if target and target not in rows]:
            blobs: Any = self._redis.mget([self._keys.cached_knowledge(target) for target in others])
            rows |= dict(zip(others, blobs, strict=True))
        # The version's own earlier result first: a changed prompt must not change what its rankers read.
        for how, name in ((BY_CONTENT, by_content), (BY_FINGERPRINT, fingerprint), (BY_SHARING, by_sharing)):
            if name and (knowledge := _record(rows[name])) is not None:
                return CacheEntry(knowledge, how)
        return None

    def put(self, records: Iterable[ItemKnowledge], sharing: Mapping[str, str] | None = None) -> None:
        """Store `records`, each as its version's result for its content; only what is confirmed in Kafka belongs here.

        `sharing` maps item ids to sharing keys: near-duplicates share a record that was distilled for this item, or one
        from the cache if they share nothing yet. Records without fingerprints (from before there were any) are skipped.
        Raises `BlobError` for one that has no stored form.
        """
        pipeline: Any = self._redis.pipeline(transaction=False)
        keys = self._keys
        for record in records:
            if not record.fingerprint or not record.content_fingerprint:
                continue
            pipeline.set(keys.cached_knowledge(record.fingerprint), encode_knowledge(record), px=self._ttl_ms)
            if not record.version:
                continue
            version = check_version(record.version)
            pointer = keys.content_pointer(version, record.content_fingerprint)
            pipeline.set(pointer, record.fingerprint, px=self._ttl_ms)
            # Shared knowledge is not shared further: what an item gets was distilled from a near-duplicate of itself.
            if (key := (sharing or {}).get(record.item_id)) and not record.provenance.shared_from:
                cached = record.provenance.origin != "fresh"
                # NX: a hit on an old row must not displace what near-duplicates share already.
                pipeline.set(keys.sharing_pointer(version, key), record.fingerprint, px=self._ttl_ms, nx=cached)
        if len(pipeline):
            pipeline.execute()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _record(blob: bytes | None) -> ItemKnowledge | None:
    """The record of a row, or None if it has fields that this release does not know, or lacks required ones."""
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
    """The document with tuples for lists, as records hold them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in document.items()}
