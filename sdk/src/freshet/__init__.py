"""Freshet for rankers: fresh, versioned features of users and items from Redis in one round trip.

    from freshet import FeatureReader

    reader = FeatureReader("redis://features:6379/0")
    found = reader.read("user-7", candidate_ids)
    scores = found.item_matrix @ found.user.log_vector      # (N,) float32; see found.present, found.age_seconds

This package imports numpy, redis and the standard library, and nothing else. A ranker takes what it needs from here;
`freshet.testing` has readers for its unit tests. The other public modules are for programs that write features or read
Redis on their own: `records`, `layout`, `blob`, `header`, `vectors`, `connect`, `clock`. Modules with a leading
underscore are private.
"""

from freshet._breaker import CircuitBreaker
from freshet._version import __version__
from freshet.async_reader import AsyncFeatureReader
from freshet.local_cache import LocalCache
from freshet.metrics import ReadMetrics, ReadObserver
from freshet.ranking import CandidateFeatures, RankingOptions, candidate_features
from freshet.ranking_reader import AsyncRankingReader, RankingRead, RankingReader
from freshet.reader import FeatureReader
from freshet.records import InferredBehavior, ItemFeatures, ItemTier, UserFeatures, UserTier
from freshet.results import FeatureRead, ItemChanges, ItemsRead, KnowledgeRead, UserRead

__all__ = [
    "AsyncFeatureReader",
    "AsyncRankingReader",
    "CandidateFeatures",
    "CircuitBreaker",
    "FeatureRead",
    "FeatureReader",
    "InferredBehavior",
    "ItemChanges",
    "ItemFeatures",
    "ItemTier",
    "ItemsRead",
    "KnowledgeRead",
    "LocalCache",
    "RankingOptions",
    "RankingRead",
    "RankingReader",
    "ReadMetrics",
    "ReadObserver",
    "UserFeatures",
    "UserRead",
    "UserTier",
    "__version__",
    "candidate_features",
]
