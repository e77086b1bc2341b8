"""Who is due for a refresh, from the settings: one place, as events, refresh, replay and rebuild must agree."""

from __future__ import annotations

from store.refresh_queue import RefreshPolicy
from streams.settings import Settings


def refresh_policy(settings: Settings) -> RefreshPolicy:
    """The policy that the settings give."""
    return RefreshPolicy(settings.refresh_events, settings.refresh_stale_s, settings.refresh_interval_s)
