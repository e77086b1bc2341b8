"""The table of lanes. A lane is one new file beside this one and one entry here: everything else reads the table.

Owns what the rest of the worker, the command line, replay, the metrics and the docs know of a lane. Must not import a
lane: its factory is loaded on use, so that a worker with the sink alone loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from streams.consumers.assignment import MakeInFlight
from streams.kafka.consumer import Subscription, consumer_group
from streams.kafka.topics import Topics
from streams.lanes.lane import Lane
from streams.settings import Settings
from streams.wiring.resources import Resources

# What a lane reads and writes beside topics. Prefixed, so that it cannot be taken for an attribute of `Topics`.
HISTORIES = "redis:histories"
REFRESH_QUEUE = "redis:refresh-queue"
FEATURES = "redis:features"
_REDIS = "redis:"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSpec:
    """All that others know of a lane.

    - `factory`: `module:callable`; called with the lane's `Subscription` and the `Resources`, it makes the `Lane`.
    - `reads`, `writes`: topics, as attributes of `Topics`, and the names above. The order of topics is no promise.
    - `about`: what it does; `without`: what does not happen while no worker runs it, to go on after "until one does,".
    - `shared`: its result belongs to no version, so the workers of all versions share its consumer group.
    - `pins`: the components its result depends on (`streams.versions.components`).
    - `needs`: the dependencies it asks; the command line finds their addresses.
    - `services`: what has to run beside it in its worker (`streams.worker.services`).
    - `replay`: `module:callable`; called with the `Resources`, it makes the work of `freshet replay` on a record of
      `reads`. Empty for a lane that is not replayed.
    """

    name: str
    factory: str
    about: str
    without: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    shared: bool = False
    pins: tuple[str, ...] = ()
    needs: tuple[str, ...] = ("kafka", "redis")
    services: tuple[str, ...] = ()
    replay: str = ""

    def subscription(self, settings: Settings) -> Subscription:
        """Group and topics in this deployment; no topics for a lane that reads none (a timer)."""
        topics = Topics(settings)
        return Subscription(
            self.name,
            consumer_group(settings, self.name, shared=self.shared),
            tuple(getattr(topics, name) for name in self.reads if not name.startswith(_REDIS)),
        )

    def build(self, resources: Resources) -> Lane:
        """Make the lane; it does not run before `start`."""
        factory = cast(Callable[[Subscription, Resources], Lane], _loaded(self.factory))
        return factory(self.subscription(resources.settings), resources)

    def replayed(self, resources: Resources) -> MakeInFlight:
        """The lane's work without its consumer group."""
        return cast(Callable[[Resources], MakeInFlight], _loaded(self.replay))(resources)


def _loaded(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


LANES: dict[str, LaneSpec] = {
    spec.name: spec
    for spec in (
        LaneSpec(
            name="item-text",
            factory="streams.lanes.item_text:item_text_lane",
            about="gives every item a vector from its text, at once",
            without="an item has no vector before it is distilled",
            reads=("items",),
            writes=("item_features",),
            pins=("dims", "encoder", "aligner"),
            replay="streams.lanes.item_text:text_work",
        ),
        LaneSpec(
            name="item-distill",
            factory="streams.lanes.item_distill:item_distill_lane",
            about="asks the LLM what is known about each item, and embeds it with that",
            without="items keep the vector of their text",
            reads=("items",),
            writes=("item_knowledge", "item_features"),
            pins=("dims", "encoder", "aligner", "prompts", "llm"),
            needs=("kafka", "redis", "llm"),
            replay="streams.lanes.item_distill:distill_work",
        ),
        LaneSpec(
            name="user-events",
            factory="streams.lanes.user_events:UserEventsLane",
            about="keeps each user's newest events, and queues the user for a refresh",
            without="no history grows and nobody is queued",
            reads=("user_events",),
            writes=(HISTORIES, REFRESH_QUEUE),
            shared=True,
            services=("erasure-sweep",),
        ),
        LaneSpec(
            name="user-refresh",
            factory="streams.lanes.user_refresh:UserRefreshLane",
            about="infers the vectors and likely behaviors of queued users, in batches",
            without="nobody is refreshed",
            reads=(REFRESH_QUEUE, HISTORIES, FEATURES),
            writes=("user_features",),
            pins=("dims", "aligner", "reasoner", "checkpoint"),
        ),
        LaneSpec(
            name="sink",
            factory="streams.lanes.sink:SinkLane",
            about="writes knowledge and features to Redis, newer wins",
            without="nothing comes to Redis",
            reads=("item_knowledge", "item_features", "user_features"),
            writes=(FEATURES,),
            pins=("schema", "dims", "dtype"),
        ),
    )
}


class UnknownLane(ValueError):
    """A lane that is not in the table."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no lane is called {name!r}; the lanes are {', '.join(LANES)}")
        self.name = name


def lane_specs(names: Iterable[str]) -> list[LaneSpec]:
    """The entries called `names`, without repeats; raises `UnknownLane`."""
    for name in (wanted := dict.fromkeys(names)):
        if name not in LANES:
            raise UnknownLane(name)
    return [LANES[name] for name in wanted]


def subscriptions(settings: Settings, names: Iterable[str] | None = None) -> list[Subscription]:
    """What the lanes called `names` (default: every lane) read; those that read no topic are left out."""
    found = [spec.subscription(settings) for spec in lane_specs(LANES if names is None else names)]
    return [one for one in found if one.topics]


def consumer_groups(settings: Settings) -> dict[str, list[str]]:
    """The consumer group of each lane that reads Kafka, with its topics."""
    return {one.group: list(one.topics) for one in subscriptions(settings)}


def dependencies(names: Iterable[str]) -> tuple[str, ...]:
    """What the lanes called `names` ask, each once."""
    return tuple(dict.fromkeys(need for spec in lane_specs(names) for need in spec.needs))


def asking(dependency: str) -> list[str]:
    """The lanes that ask `dependency`."""
    return [spec.name for spec in LANES.values() if dependency in spec.needs]


def downstream(written: Iterable[str]) -> list[LaneSpec]:
    """The lanes that carry what is `written` on to the features that rankers read, in the order of the table."""
    reached, found = set(written), dict[str, LaneSpec]()
    while new := [spec for spec in LANES.values() if spec.name not in found and reached & _carried(spec)]:
        found |= {spec.name: spec for spec in new}
        reached |= {name for spec in new for name in spec.writes}
    return [spec for spec in LANES.values() if spec.name in found]


def _carried(spec: LaneSpec) -> set[str]:
    """What makes the lane work: features that are looked up by the way are not among them."""
    return set(spec.reads) - {FEATURES}
