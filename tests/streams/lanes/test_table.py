"""The table of lanes: its entries hold, and one more entry is all that a new lane needs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from cli import main
from docs.generators.lanes_table import table as docs_table
from streams.health import Health
from streams.jobs.replay.plan import USER_STAGES
from streams.jobs.version_topics import own_groups
from streams.kafka.consumer import Subscription
from streams.kafka.lag import PartitionLag
from streams.kafka.topics import Topics
from streams.lanes.table import FEATURES, LANES, REFRESH_QUEUE, LaneSpec, asking, downstream, subscriptions
from streams.metrics import Metrics
from streams.settings import Settings
from streams.versions.components import KNOWN, LATER, REQUIRED, components, required_by_lane
from streams.wiring.resources import Resources
from streams.worker.services import SERVICES
from streams.worker.stall_detector import StallWatcher
from streams.worker.worker import make_worker

SETTINGS = {"kafka": "127.0.0.1:1", "redis": "redis://127.0.0.1:1", "llm": "http://127.0.0.1:1"}


@pytest.mark.parametrize("spec", LANES.values(), ids=list(LANES))
def test_every_entry_holds(spec: LaneSpec) -> None:
    """Catches an entry that names a module, topic, component, service or dependency that is not there."""
    module, _, factory = spec.factory.partition(":")
    assert callable(getattr(import_module(module), factory))
    assert spec.name == import_module(module).NAME, "metrics and dead letters bear the name of the module"
    if spec.replay:
        module, _, work = spec.replay.partition(":")
        assert callable(getattr(import_module(module), work))
    topics = Topics(Settings.load({}))
    for name in (*spec.reads, *spec.writes):
        assert name.startswith("redis:") or hasattr(topics, name), name
    assert set(spec.pins) <= KNOWN.keys() | LATER
    assert set(spec.services) <= SERVICES.keys()
    assert set(spec.needs) <= {"kafka", "redis", "llm"}
    assert spec.about
    assert spec.without
    assert spec.name == LANES[spec.name].name
    assert spec.name not in USER_STAGES - {"user-events"}, "a stage of a replay would be taken for the lane"


def test_every_component_that_activation_wants_is_pinned_by_a_lane() -> None:
    """Catches a version that can never be activated."""
    assert set(REQUIRED) <= KNOWN.keys()
    assert all(required_by_lane().values())
    assert required_by_lane()["dims"] == "item-text, item-distill, user-refresh or sink"


def test_what_is_written_is_followed_to_redis() -> None:
    """Catches a replay that does not say which worker is missing, or that asks for one it does not need."""
    assert [spec.name for spec in downstream(["item_features"])] == ["sink"]
    assert [spec.name for spec in downstream([REFRESH_QUEUE])] == ["user-refresh", "sink"]
    assert downstream([FEATURES]) == []


class EchoLane:
    """A lane that is only there."""

    name = "echo"

    def __init__(self, subscription: Subscription, resources: Resources) -> None:
        self.subscription, self.resources = subscription, resources

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def wait_failed(self) -> BaseException:
        raise NotImplementedError


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Iterator[LaneSpec]:
    """A lane of a file and a line: a module of its own, and its entry."""
    module = ModuleType("echo_lane")
    module.EchoLane = EchoLane  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "echo_lane", module)
    spec = LaneSpec(
        name="echo",
        factory="echo_lane:EchoLane",
        about="says everything twice",
        without="all is said once",
        reads=("item_knowledge",),
        writes=("item_features",),
        pins=("dims",),
        needs=("kafka", "redis", "llm"),
        services=("erasure-sweep",),
    )
    monkeypatch.setitem(LANES, "echo", spec)
    return spec


async def test_the_worker_builds_it_with_its_topics_group_and_services(echo: LaneSpec) -> None:
    """Catches a place that knows lanes by another list."""
    resources = Resources(Settings.load({}, **SETTINGS), member=True)
    worker = make_worker(["echo"], resources)
    [lane] = worker.lanes
    assert isinstance(lane, EchoLane)
    assert lane.subscription == Subscription("echo", "freshet-v1-echo", ("item-knowledge",))
    assert [service.name for service in worker.services] == ["erasure-sweep"]
    assert components(["echo"], resources) == {"dims": str(resources.settings.vectors.dims)}
    await resources.close()


def test_the_command_line_takes_it_and_finds_what_it_asks(echo: LaneSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a lane that `worker --lanes` refuses, does not offer, or starts without the address it needs."""
    started: list[Any] = []

    async def run(names: Any, resources: Any) -> int:
        started.append((names, resources.settings.llm.url))
        return 0

    monkeypatch.setattr("streams.worker.worker.run", run)
    environment = {f"FRESHET_{name.upper()}": value for name, value in SETTINGS.items()}
    done = CliRunner().invoke(main, ["worker", "--lanes", "echo"], env=environment)
    assert (done.exit_code, started) == (0, [(["echo"], SETTINGS["llm"])]), done.output
    every = CliRunner().invoke(main, ["worker"], env=environment)
    assert every.exit_code == 0
    assert started[1][0] == list(LANES)
    refused = CliRunner().invoke(main, ["worker", "--lanes", "eco"], env=environment)
    assert (refused.exit_code, "echo" in refused.output) == (2, True)
    assert "echo" in CliRunner().invoke(main, ["worker", "--help"]).output


def test_its_lag_is_measured_and_its_group_goes_with_its_version(
    echo: LaneSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a lane without lag or stall metrics, and a group that `versions gc` leaves behind."""
    settings, metrics = Settings.load({}, **SETTINGS), Metrics()
    [mine] = subscriptions(settings, ["echo"])

    class Lag:
        def __init__(self, _kafka: Any, groups: Any) -> None:
            assert groups == {"freshet-v1-echo": ("item-knowledge",)}

        def partitions(self) -> dict[str, list[PartitionLag]]:
            return {"freshet-v1-echo": [PartitionLag("item-knowledge", 0, 5, 9)]}

        def close(self) -> None: ...

    monkeypatch.setattr("streams.worker.stall_detector.GroupLag", Lag)
    watcher = StallWatcher({}, [mine], metrics, Health(metrics, stall_s=10))
    watcher.look(0.0)
    labels = {"lane": "echo", "topic": "item-knowledge", "partition": "0"}
    assert metrics.registry.get_sample_value("freshet_lag_records", labels) == 4
    assert "freshet-v2-echo" in own_groups(settings, "v2")
    assert "freshet-user-events" not in own_groups(settings, "v2")


def test_replay_status_and_docs_know_it(echo: LaneSpec) -> None:
    """Catches a lane that an operator is not told of."""
    assert "echo" in asking("llm")
    assert "echo" in [spec.name for spec in downstream(["item_knowledge"])]
    assert "| `echo` | says everything twice | `item-knowledge` | `item-features-VERSION` |" in docs_table()
    assert "echo" in required_by_lane()["dims"]


def test_resources_are_never_replaced() -> None:
    """Catches wiring that is right only in one order: a lane may have the old one already."""
    resources = Resources(Settings.load({}))
    with pytest.raises(AttributeError, match="constructor"):
        resources.llm = object()  # type: ignore[assignment]
    asyncio.run(resources.close())
