"""Freshet for rankers: fresh, versioned features of users and items from Redis in one round trip.

    from freshet import FeatureReader

    reader = FeatureReader("redis://features:6379/0")
    found = reader.read("user-7", candidate_ids)
    scores = found.item_matrix @ found.user.log_vector      # (N,) float32; see found.present, found.age_seconds

Importing this package needs numpy and redis and nothing heavier.
"""

from freshet._breaker import CircuitBreaker
from freshet.async_reader import AsyncFeatureReader
from freshet.blob import BlobError
from freshet.layout import Keys
from freshet.local_cache import LocalCache
from freshet.metrics import ReadMetrics
from freshet.ranking import CandidateFeatures, RankingOptions, candidate_features
from freshet.ranking_reader import AsyncRankingReader, RankingReader
from freshet.reader import FeatureReader
from freshet.records import InferredBehavior, ItemFeatures, ItemTier, UserFeatures, UserTier
from freshet.results import FeatureRead, ItemChanges, ItemsRead, KnowledgeRead, UserRead

__all__ = [
    "AsyncFeatureReader",
    "AsyncRankingReader",
    "BlobError",
    "CandidateFeatures",
    "CircuitBreaker",
    "FeatureRead",
    "FeatureReader",
    "InferredBehavior",
    "ItemChanges",
    "ItemFeatures",
    "ItemTier",
    "ItemsRead",
    "Keys",
    "KnowledgeRead",
    "LocalCache",
    "RankingOptions",
    "RankingReader",
    "ReadMetrics",
    "UserFeatures",
    "UserRead",
    "UserTier",
    "candidate_features",
]
