"""What a replay would do: its stages, each with the offsets or the users it goes through.

Owns which stages a request has. Must not change anything: a dry run is a plan that is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from store.histories import HistoryStore
from store.versions import Versions
from streams.jobs.replay.request import Request
from streams.kafka.ranges import Range, RangeReader
from streams.kafka.topics import Topics
from streams.lanes.table import LANES, REFRESH_QUEUE, LaneSpec, downstream
from streams.settings import Settings

HISTORIES, NAMED, EVENTS = "histories", "named-users", "user-events"
USER_STAGES = frozenset({HISTORIES, NAMED, EVENTS})


@dataclass(frozen=True, slots=True)
class Stage:
    """One pass: over `ranges` of a topic, or, where there are none, over `users`.

    A stage called as a lane that reads `items` does what the lane does; the others queue users: those with an event in
    the ranges (`user-events`), with a history (`histories`) or in the file of keys (`named-users`).
    """

    name: str
    ranges: tuple[Range, ...] = ()
    users: int = 0

    @property
    def total(self) -> int:
        """Records, at most, or users."""
        return sum(map(len, self.ranges)) if self.ranges else self.users

    @property
    def clipped(self) -> list[Range]:
        """The ranges that retention has cut."""
        return [one for one in self.ranges if one.clipped]


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """A request and what it comes to when the plan is made; the ends of its ranges stay, however long it takes."""

    request: Request
    stages: tuple[Stage, ...]

    @property
    def lanes(self) -> list[str]:
        """The lanes whose work the replay itself does."""
        return [stage.name for stage in self.stages if stage.name not in USER_STAGES]


def make_plan(
    settings: Settings,
    request: Request,
    keys: frozenset[bytes],
    histories: HistoryStore,
    progress: Callable[[int], None] = lambda _: None,
) -> ReplayPlan:
    """Ask Kafka for the ranges and, where all users are wanted, count them; raises `NoTopic` and both clients' errors.

    Users come from their histories unless a time bounds the replay: events that retention has deleted count too.
    """
    topics, stages = Topics(settings, request.version), list[Stage]()
    bounds = {"from_ms": request.from_ms, "to_ms": request.to_ms}
    with RangeReader(settings) as reader:
        if request.topic in ("items", "all"):
            items = tuple(reader.find(topics.items, **bounds))
            stages += [Stage(spec.name, items) for spec in _item_lanes(request)]
        if request.topic in ("user-events", "all"):
            if request.windowed:
                stages.append(Stage(EVENTS, tuple(reader.find(topics.user_events, **bounds))))
            elif keys:
                stages.append(Stage(NAMED, users=len(keys)))
            else:
                stages.append(Stage(HISTORIES, users=_counted(histories.scan_users(), progress)))
    return ReplayPlan(request, tuple(stages))


def _item_lanes(request: Request) -> list[LaneSpec]:
    """The lanes that an item goes through; those that ask the LLM only where knowledge is wanted, as that costs."""
    lanes = [spec for spec in LANES.values() if spec.replay and "items" in spec.reads]
    return [spec for spec in lanes if request.knowledge or "llm" not in spec.needs]


def warnings(plan: ReplayPlan, versions: Versions) -> list[str]:
    """What an operator should know before it begins."""
    version, found = plan.request.version, []
    for stage in plan.stages:
        if stage.clipped:
            gone = ", ".join(f"{one.partition} before offset {one.first:,}" for one in stage.clipped)
            found.append(f"{stage.name}: retention has deleted what came first, in partition {gone}")
    running = {lane for worker in versions.workers(version) for lane in worker.about.get("lanes", ())}
    written = {name for stage in plan.stages for name in _written(stage)}
    for spec in sorted(downstream(written), key=lambda spec: spec.name):
        if spec.name not in running:
            found.append(f"no worker of {version} runs the lane {spec.name}: until one does, {spec.without}")
    return found


def _written(stage: Stage) -> tuple[str, ...]:
    return (REFRESH_QUEUE,) if stage.name in USER_STAGES else LANES[stage.name].writes


def _counted(pages: Iterable[list[str]], progress: Callable[[int], None]) -> int:
    count = 0
    for page in pages:
        count += len(page)
        progress(len(page))
    return count
