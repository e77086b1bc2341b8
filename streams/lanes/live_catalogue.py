"""The item vectors of one version, kept in step with Redis.

Owns which changes are still to be read. Must not write, and must not be asked by two threads at once.
"""

from __future__ import annotations

from freshet.reader import FeatureReader
from models.reasoner.catalogue import Catalogue


class LiveCatalogue:
    """`items` follows what `reader` (pinned to a version) sees; reads only what changed since the last look."""

    def __init__(self, reader: FeatureReader, dims: int) -> None:
        self.items = Catalogue.empty(dims)
        self._reader = reader
        self._since_ms = 0
        self._alive: set[str] = set()

    @property
    def live(self) -> int:
        """How many items can be inferred."""
        return len(self._alive)

    def sync(self) -> int:
        """Read what changed; answers how many items are live. Raises redis errors, and then has forgotten nothing."""
        changes = self._reader.changed_items(self._since_ms)
        # The bound is inclusive: what was written at the newest timestamp comes again. Skipping those few could miss a
        # second write in that millisecond.
        if changes.deleted:
            self.items.remove(changes.deleted)
            self._alive.difference_update(changes.deleted)
        if changes.written:
            found = self._reader.items(changes.written)
            ids = [one for one, present in zip(changes.written, found.present, strict=True) if present]
            self.items.upsert(ids, found.item_matrix[found.present])
            self._alive.update(ids)
        self._since_ms = changes.newest_ms
        return len(self._alive)
