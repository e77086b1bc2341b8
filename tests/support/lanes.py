"""Lanes by their entries in the table, of their own type, for tests that look inside."""

from __future__ import annotations

from streams.lanes.sink import SinkLane
from streams.lanes.table import LANES
from streams.lanes.user_events import UserEventsLane
from streams.lanes.user_refresh import UserRefreshLane
from streams.wiring.resources import Resources


def user_refresh(resources: Resources) -> UserRefreshLane:
    return UserRefreshLane(LANES["user-refresh"].subscription(resources.settings), resources)


def user_events(resources: Resources) -> UserEventsLane:
    return UserEventsLane(LANES["user-events"].subscription(resources.settings), resources)


def sink(resources: Resources) -> SinkLane:
    return SinkLane(LANES["sink"].subscription(resources.settings), resources)
