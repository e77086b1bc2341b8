"""A worker in its version: what it pins, what it is refused for, and how others learn that it lives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from models.encoder.aligner import LinearAligner
from models.llm.client import CompletionRequest, LLMUnavailable
from store.versions import VersionConflict, VersionRetiring, Versions
from streams.identity import worker_name
from streams.lanes.table import LANES
from streams.settings import Settings
from streams.versions.components import components
from streams.versions.membership import Membership
from streams.wiring.resources import Resources
from tests.support.fakes_encoder import FakeEncoder
from tests.support.fakes_llm import FakeLlm

ALL = list(LANES)
Make = Callable[..., Resources]


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


@pytest.fixture
async def make(valkey: str, tmp_path: Path) -> AsyncIterator[Make]:
    """Resources with fake models, closed at the end."""
    made: list[Resources] = []

    def one(encoder: Any = None, llm: Any = None, **settings: Any) -> Resources:
        given = Settings.load({}, redis=valkey, home=tmp_path, dims=8, **settings)
        encoder, llm = encoder or FakeEncoder(dims=32), llm or FakeLlm()
        resources = Resources(given, member=True, encoder=encoder, llm=llm)
        made.append(resources)
        return resources

    yield one
    for resources in made:
        await resources.close()


class AwayLlm(FakeLlm):
    """Out of reach until it is told to be back; then it serves `served`."""

    served = "another-model"
    away = True

    async def served_model(self) -> str:
        if self.away:
            raise LLMUnavailable("away")
        return self.served


def pinned(client: redis.Redis, version: str = "v1") -> dict[str, str]:
    return {name: one.value for name, one in Versions(client).manifest(version).items()}


async def test_a_worker_with_all_lanes_pins_all_it_knows(client: redis.Redis, make: Make) -> None:
    """Catches a component that nobody compares, and a version that is not listed until it is activated."""
    resources = make()
    membership = Membership(ALL, resources)
    await membership.start()
    assert pinned(client) == {
        "schema": components(["sink"], resources)["schema"],
        "dims": "8",
        "dtype": "float16",
        "encoder": "fake@1",
        "aligner": LinearAligner.random(0, 32, 8).revision,
        "prompts": resources.distillation.fingerprint,
        "llm": FakeLlm().name,
        "reasoner": "block-diffusion",
    }
    versions = Versions(client)
    assert (versions.active(), versions.names()) == ("v1", ["v1"])
    assert {one.by for one in versions.manifest("v1").values()} == {worker_name()}
    [worker] = versions.workers("v1")
    assert (worker.name, worker.about["lanes"]) == (worker_name(), ALL)
    await membership.stop()
    assert versions.workers("v1") == []


@pytest.mark.parametrize(
    ("lanes", "names"),
    [
        (["sink"], {"schema", "dims", "dtype"}),
        (["item-text"], {"encoder", "aligner", "dims"}),
        (["item-distill"], {"encoder", "aligner", "dims", "prompts"}),
        (["user-refresh"], {"dims", "reasoner"}),
        (["user-events"], set()),
    ],
)
async def test_a_lane_pins_what_it_uses(make: Make, lanes: list[str], names: set[str]) -> None:
    """Catches a sink that loads an encoder, and two lanes that are refused for what they do not use."""
    resources = make()
    assert set(components(lanes, resources)) == names
    assert ("embedder" in vars(resources)) is False


async def test_refreshing_users_pins_a_trained_aligner_and_asks_no_encoder(make: Make, tmp_path: Path) -> None:
    """Catches users in another space than the items, and an encoder loaded for its width."""

    class Unasked(FakeEncoder):
        @property
        def revision(self) -> str:  # type: ignore[override]
            raise AssertionError("the encoder was asked")

    resources = make(encoder=Unasked(dims=32))
    aligner = LinearAligner.random(5, 32, 8)
    aligner.save(tmp_path / "aligner.safetensors")
    assert components(["user-refresh"], resources)["aligner"] == aligner.revision


@pytest.mark.parametrize(
    ("lanes", "pins", "named"),
    [
        (["sink"], {"schema": "old"}, ["schema", "old"]),
        (["sink"], {"dims": "64"}, ["dims", "'64'", "'8'"]),
        (["item-text"], {"encoder": "mini@2"}, ["encoder", "mini@2", "fake@1"]),
        (["item-text"], {"aligner": "abc"}, ["aligner", "abc"]),
        (["item-distill"], {"prompts": "p1"}, ["prompts", "p1"]),
        (["item-distill"], {"llm": "other-llm"}, ["llm", "other-llm"]),
        (["user-refresh"], {"reasoner": "cooccurrence"}, ["reasoner", "cooccurrence", "block-diffusion"]),
    ],
)
async def test_every_component_that_differs_refuses_the_worker(
    client: redis.Redis, make: Make, lanes: list[str], pins: dict[str, str], named: list[str]
) -> None:
    """Catches vectors of two models in one version, and a message that leaves the operator to guess."""
    Versions(client).create("v1", pins)
    with pytest.raises(VersionConflict) as caught:
        await Membership(lanes, make()).start()
    for word in [*named, "v1", "freshet versions create", "FRESHET_VERSION"]:
        assert word in str(caught.value)
    assert Versions(client).workers("v1") == []
    if "llm" not in pins:
        assert Versions(client).active() is None


async def test_another_version_takes_what_the_first_refuses(client: redis.Redis, make: Make) -> None:
    """Catches a way out that is none."""
    Versions(client).create("v1", {"encoder": "mini@2"})
    Versions(client).activate("v1")
    membership = Membership(["item-text"], make(version="v2"))
    await membership.start()
    assert pinned(client, "v2")["encoder"] == "fake@1"
    assert Versions(client).active() == "v1"
    await membership.stop()


async def test_a_language_model_that_is_away_is_pinned_before_its_first_answer(client: redis.Redis, make: Make) -> None:
    """Catches a worker that waits for an LLM to start, and knowledge of a model that nobody compared."""
    llm = AwayLlm()
    resources = make(llm=llm)
    membership = Membership(["item-distill"], resources)
    await membership.start()
    assert "llm" not in pinned(client)
    model = resources.limited_llm
    with pytest.raises(LLMUnavailable):
        await model.complete(CompletionRequest([], {"type": "object"}, "x", max_tokens=1))
    llm.away = False
    assert await model.served_model() == "another-model"
    assert pinned(client)["llm"] == "another-model"
    await membership.stop()


async def test_another_language_model_is_refused_when_it_comes_back(client: redis.Redis, make: Make) -> None:
    """Catches an endpoint that was away and serves something else now: nothing may be asked of it."""
    Versions(client).create("v1", {"llm": "first-model"})
    llm = AwayLlm()
    resources = make(llm=llm)
    membership = Membership(["item-distill"], resources)
    await membership.start()
    llm.away = False
    with pytest.raises(VersionConflict, match="first-model"):
        await resources.limited_llm.complete(CompletionRequest([], {"type": "object"}, "x", 1))
    assert llm.calls == []
    await membership.stop()


async def test_a_worker_fails_when_its_version_is_deleted(client: redis.Redis, make: Make) -> None:
    """Catches a worker that writes into a version while it goes."""
    Versions(client).activate("v0")
    membership = Membership(["sink"], make(), beat_s=0.05)
    await membership.start()
    Versions(client).retire("v1", force=True)
    assert isinstance(await asyncio.wait_for(membership.wait_failed(), 5), VersionRetiring)
    assert Versions(client).workers("v1") == []
    await membership.stop()


async def test_a_worker_joins_anew_when_redis_has_lost_its_data(client: redis.Redis, make: Make) -> None:
    """Catches workers that end with an emptied Redis, or rankers that stay without an active version."""
    membership = Membership(ALL, make(), beat_s=0.05)
    await membership.start()
    before = pinned(client)
    client.flushall()
    deadline = time.monotonic() + 5
    while not Versions(client).workers("v1"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert pinned(client) == before
    assert Versions(client).active() == "v1"
    await membership.stop()


async def test_signs_of_life_go_on(client: redis.Redis, make: Make) -> None:
    """Catches a worker that counts as dead after a minute, and whose version may then be deleted under it."""
    membership = Membership(["sink"], make(), beat_s=0.05)
    await membership.start()
    first = Versions(client).workers("v1")[0].seen_ms
    await asyncio.sleep(0.3)
    assert Versions(client).workers("v1")[0].seen_ms > first + 100
    await membership.stop()
