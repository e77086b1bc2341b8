"""What a text reasoner learns of items, and which of its words may be published.

Owns where a worker finds an item's title. Must not call a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from freshet.blob import decode_knowledge
from freshet.connect import Client, keys_for
from freshet.records import Item
from models.reasoner.kinds import TitlesUnavailable
from processors.items.injection_guard import inspect
from processors.items.prompt_text import MAX_TITLE, clean

_NO_ITEM = Item("", 0, "")
_KEYS_PER_TRIP = 500
_FACTS = 4
_MOST_KEPT = 100_000


class KnownTitles:
    """Titles out of the item knowledge of one version in Redis: its summary, else category and facts, else the item id.

    Features carry no title, so an item that nobody has distilled yet is known by its id alone, which means little to a
    language model. What is found is kept, as long as it fits; what is not found is looked for again.
    """

    def __init__(self, client: Client, prefix: str, version: str) -> None:
        self._redis = client
        self._keys = keys_for(client, prefix)
        self._version = version
        self._kept: dict[str, str] = {}

    def __call__(self, item_ids: Sequence[str]) -> list[str]:
        """See `models.reasoner.kinds.Titles`."""
        missing = [item_id for item_id in item_ids if item_id not in self._kept]
        found: dict[str, str] = {}
        mget = getattr(self._redis, "mget_nonatomic", self._redis.mget)  # which a Cluster's client has
        try:
            for start in range(0, len(missing), _KEYS_PER_TRIP):
                trip = missing[start : start + _KEYS_PER_TRIP]
                blobs: Any = mget([self._keys.knowledge(self._version, item_id) for item_id in trip])
                found.update(zip(trip, map(_title, blobs), strict=True))
        except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
            raise TitlesUnavailable(f"{type(error).__name__}: {error}") from error
        if len(self._kept) + len(found) > _MOST_KEPT:
            self._kept.clear()
        titles = [self._kept.get(item_id) or found.get(item_id) or item_id for item_id in item_ids]
        self._kept.update({item_id: title for item_id, title in found.items() if title})
        return titles


def _title(blob: bytes | None) -> str:
    """The words of one knowledge blob, or ""."""
    read = decode_knowledge(blob)
    if read is None:
        return ""
    _, document = read
    facts = [str(claim["value"]) for claim in document.get("claims", ()) if claim["kind"] == "attribute"]
    words = document.get("summary") or ", ".join([*(document.get("category") or ())[-1:], *facts[:_FACTS]])
    return clean(str(words), MAX_TITLE)


def acceptable(text: str) -> bool:
    """Whether the guard of the item lanes would let `text` pass: no links, talk to a model, advertising or code."""
    return not inspect(_NO_ITEM, "", {"behavior": text})
