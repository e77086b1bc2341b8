"""From users to their features, by the reasoner in use over the item vectors as they are now.

Owns what an inference needs: histories, the catalogue in step with Redis, the reasoner. Must not publish, nor decide
how a user is inferred (`processors.users.refresh`). Everything here blocks; one thread at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from freshet.reader import FeatureReader
from freshet.records import UserFeatures
from store.histories import History, HistoryStore
from streams.lanes.live_catalogue import LiveCatalogue
from streams.lanes.live_reasoner import LiveReasoner
from streams.wiring.resources import Resources

# Reading a whole catalogue at the start takes longer than a ranker would wait.
_READ_TIMEOUT_S = 10.0


class UserInference:
    """The reasoner of one version with all that it looks at."""

    def __init__(self, resources: Resources) -> None:
        settings = resources.settings
        self._histories = HistoryStore(
            resources.redis, settings.key_prefix, length=settings.history.length, ttl_s=settings.redis.feature_ttl_s
        )
        reader = FeatureReader(
            resources.redis,
            settings.key_prefix,
            version=settings.version,
            dims=settings.vectors.dims,
            timeout_s=_READ_TIMEOUT_S,
            raise_errors=True,
        )
        self.catalogue = LiveCatalogue(reader, settings.vectors.dims)
        self.reasoner = LiveReasoner(resources)

    def load(self, user_ids: Sequence[str]) -> list[History]:
        """Their newest events; raises redis errors."""
        return self._histories.load(user_ids)

    def infer(self, histories: Sequence[History]) -> list[UserFeatures]:
        """Users whose history is gone (expired, erased) get no features: there is nobody to infer anything about."""
        known = [history for history in histories if history.item_ids]
        refresher = self.reasoner.refresher()  # looks for a new checkpoint, so also where nobody is known
        return refresher.refresh(known, self.catalogue.items) if known else []
