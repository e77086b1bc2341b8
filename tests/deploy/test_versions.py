"""One table of versions, and every place that names one agrees with it."""

from __future__ import annotations

import shutil
from pathlib import Path

from deploy import versions


def copied(root: Path) -> None:
    """The table and every file that it names, to be spoiled."""
    for file in {place.file for place in versions.places()} | {"deploy/versions.toml"}:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(versions.ROOT / file, root / file)


def test_every_place_says_what_the_table_says() -> None:
    """Catches a version changed in one place, and a place that moved out of the table's sight."""
    assert list(versions.stale()) == []


def test_a_place_of_another_version_is_found_and_mended(tmp_path: Path) -> None:
    """Catches a comparison that compares nothing."""
    copied(tmp_path)
    compose = tmp_path / "docker-compose.yml"
    kafka = next(place for place in versions.places() if place.file == "docker-compose.yml" and place.name == "kafka")
    compose.write_text(compose.read_text().replace(f"apache/kafka:{kafka.version}", "apache/kafka:3.9.0"))
    [line] = versions.stale(tmp_path)
    assert line == f"docker-compose.yml: image: apache/kafka:{{}} says 3.9.0; kafka is {kafka.version}"
    kafka.write(tmp_path)
    assert list(versions.stale(tmp_path)) == []
    assert compose.read_text() == (versions.ROOT / "docker-compose.yml").read_text()


def test_a_place_that_says_nothing_is_found(tmp_path: Path) -> None:
    """Catches a template that no longer fits its file."""
    copied(tmp_path)
    (tmp_path / "deploy/vllm.Dockerfile").write_text("FROM python:latest\n")
    assert [line for line in versions.stale(tmp_path) if line.startswith("deploy/vllm.Dockerfile")]
