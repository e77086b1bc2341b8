"""Imports run downwards, and what other teams import stays light: the house of docs/architecture.md, checked."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"schemas": 0, "freshet": 1, "models": 2, "processors": 3, "streams": 4}
KAFKA = {"faust", "mode", "confluent_kafka", "aiokafka", "kafka"}
FORBIDDEN = {
    "schemas": KAFKA | {"redis", "torch", "transformers", "httpx"},
    "freshet": KAFKA | {"torch", "transformers", "httpx", "fastavro", "pyarrow", "rich", "click"},
    "models": KAFKA | {"redis", "valkey"},
    "processors": KAFKA | {"redis", "valkey", "httpx", "requests", "urllib"},
    "streams": set[str](),
}
BASE_MAY_IMPORT = {"numpy", "redis"}  # `pip install freshet-sdk` brings no more


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports anywhere in it, with its line."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full"
            assert node.module is not None
            yield node.lineno, node.module


@pytest.mark.parametrize("package", FLOORS)
def test_no_floor_knows_the_one_above(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(package)
        for line, name in imports(path)
        if FLOORS.get(name.partition(".")[0], -1) > FLOORS[package]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", FLOORS)
def test_no_floor_imports_what_it_must_not_know(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(package)
        for line, name in imports(path)
        if name.partition(".")[0] in FORBIDDEN[package]
    ]
    assert not wrong, "\n".join(wrong)


def test_a_ranker_needs_no_more_than_the_base_installation() -> None:
    """`freshet` may use the records of `schemas`, never the codec, which needs fastavro."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules("freshet")
        for line, name in imports(path)
        if (top := name.partition(".")[0]) not in sys.stdlib_module_names | BASE_MAY_IMPORT | {"freshet"}
        and not (top == "schemas" and name == "freshet.records")
        and not (top == "prometheus_client" and path.name == "read_metrics.py")  # which loads it when it is scraped
    ]
    assert not wrong, "\n".join(wrong)


def loaded_by(*names: str) -> set[str]:
    """The top-level packages in memory after importing these modules in a new interpreter."""
    code = f"import {', '.join(names)}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_import_freshet_loads_nothing_heavy() -> None:
    heavy = KAFKA | {"torch", "transformers", "fastavro", "pyarrow", "httpx", "rich", "click", "pydantic"}
    heavy |= {"prometheus_client"}
    assert not loaded_by("freshet", "freshet.reader", "store.feature_writer") & heavy


def test_help_loads_nothing_heavy() -> None:
    """The command line answers at once: commands are imported when called."""
    assert not loaded_by("cli") & (KAFKA | {"torch", "transformers", "pyarrow", "rich"})


def test_the_core_loads_without_a_kafka_client() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("schemas", "models", "processors")
        for path in modules(package)
    ]
    assert not loaded_by(*names) & KAFKA
