"""One broker and one world per module of faults, and the table at the end of the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local.stack.kafka import KafkaServer
from streams.settings import Settings
from tests.faults.report import ROWS, keep, table
from tests.faults.world import Addressed, World
from tests.support import servers


@pytest.fixture
def broker() -> Iterator[KafkaServer]:
    """A real Kafka of one's own, to be killed and started again on what is on its disk."""
    with servers.required(KafkaServer(Settings.load().home)) as server:
        yield server


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes worlds that end with the test."""
    made: list[World] = []

    def make(kafka: Addressed, **overrides: Any) -> World:
        made.append(World(tmp_path, kafka, **overrides))
        return made[-1]

    yield make
    for world in made:
        world.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show the table; keep it where FRESHET_FAULTS_FILE says."""
    if ROWS:
        terminalreporter.section("faults")
        terminalreporter.write_line(table(ROWS))
    if ROWS and (file := os.environ.get("FRESHET_FAULTS_FILE")):
        keep(ROWS, Path(file))
