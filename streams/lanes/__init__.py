"""The table of lanes. Adding a lane is one new file beside this one and one line here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast

from streams.kafka.topics import Topics
from streams.settings import Settings
from streams.wiring.resources import Lane, Resources

LANES: dict[str, str] = {
    "item-text": "streams.lanes.item_text:ItemTextLane",
    "item-distill": "streams.lanes.item_distill:ItemDistillLane",
    "user-events": "streams.lanes.user_events:UserEventsLane",
    "user-refresh": "streams.lanes.user_refresh:UserRefreshLane",
    "sink": "streams.lanes.sink:SinkLane",
}
"""Name to `module:factory`; a factory takes a `Resources`. Imported on use: a sink-only worker loads no torch."""

SHARED_LANES = frozenset({"user-events"})
"""Lanes whose result belongs to no version: the workers of all versions share their consumer group."""


class UnknownLane(ValueError):
    """A lane that is not in the table."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no lane is called {name!r}; the lanes are {', '.join(LANES)}")
        self.name = name


def check_lanes(names: list[str]) -> list[str]:
    """`names` without repeats, or every lane where it is empty; raises `UnknownLane`."""
    for name in names:
        if name not in LANES:
            raise UnknownLane(name)
    return list(dict.fromkeys(names)) or list(LANES)


def build_lane(name: str, resources: Resources) -> Lane:
    """Make the lane called `name`; it does not run before `start`."""
    if name not in LANES:
        raise UnknownLane(name)
    module, _, factory = LANES[name].partition(":")
    return cast(Callable[[Resources], Lane], getattr(import_module(module), factory))(resources)


def consumer_group(settings: Settings, lane: str) -> str:
    """The group a lane reads Kafka in: one of its version, so that two versions each see every record."""
    version = "" if lane in SHARED_LANES else f"{settings.version}-"
    return f"{settings.topic_prefix}freshet-{version}{lane}"


def consumer_groups(settings: Settings) -> dict[str, list[str]]:
    """The consumer group of each lane that reads Kafka, with the topics it reads."""
    topics = Topics(settings)
    read = {
        "item-text": [topics.items],
        "item-distill": [topics.items],
        "user-events": [topics.user_events],
        "sink": [topics.item_knowledge, topics.item_features, topics.user_features],
    }
    return {consumer_group(settings, lane): names for lane, names in read.items()}
