"""The settings of what Freshet keeps in Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schemas.setting import SettingError, SettingGroup, setting

_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RedisSettings(SettingGroup):
    """`[redis]`: where features are kept, and for how long."""

    GROUP: ClassVar[str] = "redis"
    MAIN: ClassVar[str] = "url"

    url: str = setting(
        "",
        "Redis or Valkey URL (redis, rediss, redis+sentinel, redis+cluster); empty: the stack of `freshet up`",
        url=True,
    )
    feature_ttl_s: int = setting(30 * _DAY_S, "Seconds a user, history or tombstone lives without a write", least=60)
    item_ttl_s: int = setting(0, "Seconds an item's vector lives without a write; 0: for ever", least=0)
    knowledge_ttl_s: int = setting(0, "Seconds an item's knowledge lives without a write; 0: for ever", least=0)

    def __post_init__(self) -> None:
        SettingGroup.__post_init__(self)
        if not self.url:
            return
        from freshet.connect import parse  # which needs redis-py: not before there is something to check

        try:
            parse(self.url)
        except ValueError as error:
            raise SettingError("redis", self.url, f"a Redis URL: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class VectorSettings(SettingGroup):
    """`[vectors]`: the shape of everything a version stores."""

    GROUP: ClassVar[str] = "vectors"

    dims: int = setting(128, "Dimensions of every stored vector", least=8, most=4096)
    dtype: str = setting("float16", "How vectors are stored", words=("float16", "bfloat16", "int8"))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class HistorySettings(SettingGroup):
    """`[history]`: what is kept of a user's log."""

    GROUP: ClassVar[str] = "history"

    length: int = setting(200, "Newest events kept per user", least=1, most=10_000)
    max_future_s: float = setting(300.0, "An event further in the future than this is a dead letter", least=0)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RefreshSettings(SettingGroup):
    """`[refresh]`: which users are refreshed, how often and how many at once."""

    GROUP: ClassVar[str] = "refresh"

    events: int = setting(1, "New events that queue a user for a refresh", least=1, most=1_000)
    stale_s: float = setting(
        600.0, "A user with fewer new events is queued when the last refresh is older than this many seconds", least=0
    )
    interval_s: float = setting(30.0, "At most one refresh per user in this many seconds", least=0)
    batch: int = setting(128, "Users leased and inferred together", least=1, most=10_000)
    lease_s: float = setting(60.0, "A leased user comes back to the queue after this many seconds", least=1)
