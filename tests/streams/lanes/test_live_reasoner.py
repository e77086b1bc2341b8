"""Which reasoner is in use, and that a version keeps the checkpoint it began with."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import torch

from models.encoder.aligner import LinearAligner
from models.reasoner import kinds
from models.reasoner.checkpoint import ALIGNER, load, save
from processors.users.refresh import UserRefresher
from store.versions import VersionConflict, VersionRetiring, Versions
from streams.lanes.live_reasoner import LiveReasoner
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.models.reasoner.reasoner_tools import checkpoint
from tests.support.fakes_encoder import FakeEncoder


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


def make_resources(valkey: str, tmp_path: Path, **settings: Any) -> Resources:
    return Resources(Settings.load({}, redis=valkey, home=tmp_path, dims=8, **settings), encoder=FakeEncoder(dims=32))


@pytest.fixture
def resources(valkey: str, tmp_path: Path) -> Iterator[Resources]:
    resources = make_resources(valkey, tmp_path)
    yield resources
    resources.redis.close()


def in_use(refresher: UserRefresher) -> str:
    """What the trained reasoner before the fallback is called, "" where there is none."""
    return refresher._reasoners[0].name if len(refresher._reasoners) > 1 else ""


def train(resources: Resources, seed: int) -> str:
    """A checkpoint of other weights in the folder; answers what its reasoner is called."""
    made = checkpoint(8)
    with torch.no_grad():
        next(iter(made.network.parameters())).add_(float(seed))
    save(made, resources.checkpoint_dir, lambda folder: resources.aligner.save(folder / ALIGNER))
    return f"block-diffusion@{load(resources.checkpoint_dir).revision}"


def pinned(client: redis.Redis, version: str = "v1") -> dict[str, str]:
    return {name: one.value for name, one in Versions(client).manifest(version).items()}


def test_the_first_checkpoint_becomes_the_versions(client: redis.Redis, resources: Resources) -> None:
    """Catches a fallback that is pinned, and a checkpoint that is not."""
    live = LiveReasoner(resources)
    assert in_use(live.refresher()) == ""
    assert pinned(client) == {}
    name = train(resources, 1)
    assert in_use(live.refresher()) == name
    assert pinned(client) == {"checkpoint": name, "aligner": resources.aligner.revision}


def test_another_checkpoint_is_refused_and_the_way_out_named(
    client: redis.Redis, resources: Resources, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches users of one version inferred by two networks, before and after a training."""
    live = LiveReasoner(resources)
    first = train(resources, 1)
    live.refresher()
    second = train(resources, 2)
    with caplog.at_level(logging.WARNING):
        assert in_use(live.refresher()) == first
        live.refresher()
    [refusal] = [record for record in caplog.records if record.message == "keeping the reasoner in use"]
    said = str(refusal.refused)  # type: ignore[attr-defined]
    for word in ("checkpoint", first, second, "freshet versions create"):
        assert word in said
    assert pinned(client)["checkpoint"] == first


def test_a_restarted_worker_is_held_to_it_and_a_new_version_is_not(
    client: redis.Redis, valkey: str, resources: Resources, tmp_path: Path
) -> None:
    """Catches a version that is another after each restart."""
    first = train(resources, 1)
    LiveReasoner(resources).refresher()
    second = train(resources, 2)
    assert in_use(LiveReasoner(resources).refresher()) == ""
    other = make_resources(valkey, tmp_path, version="v2")
    assert in_use(LiveReasoner(other).refresher()) == second
    other.redis.close()
    assert (pinned(client)["checkpoint"], pinned(client, "v2")["checkpoint"]) == (first, second)


def test_a_checkpoint_in_another_space_than_the_versions_items_is_refused(
    client: redis.Redis, resources: Resources
) -> None:
    """Catches a worker of users alone, which sees no aligner but the checkpoint's own."""
    Versions(client).create("v1", {"aligner": LinearAligner.random(9, 32, 8).revision})
    train(resources, 1)
    assert in_use(LiveReasoner(resources).refresher()) == ""
    assert "checkpoint" not in pinned(client)


def test_a_server_that_is_away_only_delays_it(
    client: redis.Redis, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a checkpoint that is forgotten, or used unpinned, since Redis was away for a moment."""
    live = LiveReasoner(resources)
    name = train(resources, 1)
    with monkeypatch.context() as patch:
        patch.setattr(live._versions, "_redis", redis.Redis(port=1))
        assert in_use(live.refresher()) == ""
    assert in_use(live.refresher()) == name
    assert pinned(client)["checkpoint"] == name


def test_a_version_that_is_being_deleted_ends_the_lane(client: redis.Redis, resources: Resources) -> None:
    """Catches a worker that goes on for a version that nobody may write."""
    Versions(client).create("v1")
    Versions(client).retire("v1", force=True)
    train(resources, 1)
    with pytest.raises(VersionRetiring):
        LiveReasoner(resources).refresher()


class TextReasoner:
    """A reasoner behind a server, which says its model's name with its first answer."""

    def __init__(self) -> None:
        self.name = "text-diffusion@unknown"


def test_a_server_that_names_its_model_late_is_pinned_then(
    client: redis.Redis, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches `unknown` as what a version is made of, and another model that nobody refuses."""
    made = TextReasoner()
    monkeypatch.setattr("streams.lanes.live_reasoner.make_reasoner", lambda name, sources: made)
    assert not kinds.REASONERS["text-diffusion"].trained
    resources = make_resources(valkey, tmp_path, reasoner="text-diffusion")
    live = LiveReasoner(resources)
    first = live.refresher()
    assert live.refresher() is first
    assert "checkpoint" not in pinned(client)
    made.name = "text-diffusion@llada"
    assert live.refresher() is first
    assert pinned(client)["checkpoint"] == "text-diffusion@llada"
    made.name = "text-diffusion@dream"
    with pytest.raises(VersionConflict, match="dream"):
        LiveReasoner(resources).refresher()
    resources.redis.close()
