"""Fixtures every test may use: real servers, a topic prefix of one's own, and an environment without settings."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from models.encoder.weights import encoder_dir, prepared
from streams.settings import Settings
from tests.support import servers, topologies

if TYPE_CHECKING:
    from models.encoder.torch_encoder import MiniLmEncoder

# Before torch is imported anywhere: two threads each on two busy cores make tiny trainings take minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

KEPT_SETTINGS = {"FRESHET_HOME", "FRESHET_REQUIRE_SERVERS", "FRESHET_TEST_SERVERS"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by what a test asks for, so that `-m 'not kafka'` needs no discipline."""
    for item in items:
        for name in ("kafka", "valkey"):
            if any(asked == name or asked.startswith(f"{name}_") for asked in getattr(item, "fixturenames", ())):
                item.add_marker(name)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's FRESHET_* variables must not decide what a test sees."""
    for name in [n for n in os.environ if n.startswith("FRESHET_") and n not in KEPT_SETTINGS]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Bootstrap address of one real Kafka for the whole session: use `topic_prefix` for names of your own."""
    with servers.running_kafka() as address:
        yield address


@pytest.fixture
def topic_prefix() -> str:
    """Put before every topic and group: tests share one broker."""
    return f"t{uuid.uuid4().hex[:10]}."


@pytest.fixture(scope="session")
def _valkey_container() -> Iterator[str | None]:
    with servers.valkey_container() as url:
        yield url


@pytest.fixture
def valkey(_valkey_container: str | None) -> Iterator[str]:
    """URL of a Redis-protocol server nobody else uses, empty."""
    with servers.fresh_valkey(_valkey_container) as url:
        yield url


@pytest.fixture(scope="session")
def _valkey_nodes() -> Iterator[topologies.Cluster]:
    with servers.required(topologies.Cluster()) as cluster:
        yield cluster


@pytest.fixture
def valkey_cluster(_valkey_nodes: topologies.Cluster) -> topologies.Cluster:
    """Three primaries with all slots in thirds, every one up and empty: `.url`, and `.nodes` to kill and restart."""
    _valkey_nodes.renew()
    return _valkey_nodes


@pytest.fixture
def valkey_sentinel() -> Iterator[topologies.SentinelPair]:
    """A primary, its replica and the Sentinel that watches them, nobody else's: `.url`, `.failover()`."""
    with servers.required(topologies.SentinelPair()) as pair:
        yield pair


@pytest.fixture
def valkey_tls(tmp_path: Path) -> Iterator[topologies.TlsServer]:
    """A server behind TLS, empty, with a certificate of an authority nobody knows: `.url` and `.ca_file`."""
    with servers.required(topologies.TlsServer(tmp_path / "tls")) as server:
        yield server


@pytest.fixture(scope="session")
def encoder() -> MiniLmEncoder:
    """The real text encoder, from the weights of FRESHET_HOME."""
    from models.encoder.torch_encoder import MiniLmEncoder

    folder = encoder_dir(Settings.load().home)
    if not prepared(folder):
        servers.missing(f"no text encoder in {folder}: run `freshet models prepare --encoder`")
    return MiniLmEncoder(folder)
