"""Imports run downwards and never in a circle, and what others import stays light: the package layout, checked."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {
    "freshet": 0, "schemas": 1, "store": 2, "models": 3, "processors": 4, "streams": 5,
    "evaluation": 6, "cli": 6, "local": 6,
}  # fmt: skip
"""Every shipped folder; `freshet` is the SDK's, under `sdk/src`."""
ONLY_IMPORTED_BY = {"evaluation": {"cli"}, "local": {"cli"}, "cli": set[str]()}
"""Of the topmost layer: who beside itself may import it."""
KAFKA = {"faust", "mode", "confluent_kafka", "aiokafka", "kafka"}
FORBIDDEN = {
    "freshet": KAFKA | {"torch", "transformers", "httpx", "fastavro", "pyarrow", "rich", "click"},
    "schemas": KAFKA | {"redis", "torch", "transformers", "httpx"},
    "store": KAFKA | {"torch", "transformers", "httpx"},
    "models": KAFKA | {"redis", "valkey"},
    "processors": KAFKA | {"redis", "valkey", "httpx", "requests", "urllib"},
    "evaluation": KAFKA | {"redis", "valkey"},
}
SDK_MAY_IMPORT = {"numpy", "redis"}
"""All that the installed SDK brings."""


def base(package: str) -> Path:
    return ROOT / "sdk" / "src" if package == "freshet" else ROOT


def files(package: str) -> list[Path]:
    return sorted((base(package) / package).rglob("*.py"))


@cache
def modules() -> dict[str, Path]:
    """Every shipped module by its name, with its file."""
    named = {}
    for package in LAYERS:
        for path in files(package):
            parts = path.relative_to(base(package)).with_suffix("").parts
            named[".".join(parts).removesuffix(".__init__")] = path
    return named


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports anywhere in it, also lazily or for types alone, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield node.lineno, name if name in modules() else node.module


def top(name: str) -> str:
    return name.partition(".")[0]


def wrong(package: str, forbidden: set[str]) -> str:
    """Where a package imports something of `forbidden`, a line each."""
    return "\n".join(
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files(package)
        for line, name in imports(path)
        if top(name) in forbidden
    )


@cache
def arrows() -> dict[str, set[str]]:
    """Which shipped modules each shipped module imports."""
    return {
        name: {found for _, found in imports(path) if found in modules() and found != name}
        for name, path in modules().items()
    }


def test_every_shipped_folder_has_a_layer() -> None:
    """Catches a new package that no rule holds for."""
    beside = {"tests", "benchmarks", "docs", "deploy", "constraints", "sdk"}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - beside
    assert packages == LAYERS.keys() - {"freshet"}


@pytest.mark.parametrize("package", LAYERS)
def test_no_layer_knows_the_one_above(package: str) -> None:
    """Catches an import upwards."""
    above = {name for name, layer in LAYERS.items() if layer > LAYERS[package]}
    assert not (found := wrong(package, above)), found


@pytest.mark.parametrize("package", LAYERS)
def test_the_topmost_layer_is_imported_by_whom_it_is_for(package: str) -> None:
    """Catches a command line that others need, and an evaluation that the worker depends on."""
    closed = {name for name, users in ONLY_IMPORTED_BY.items() if package not in users | {name}}
    assert not (found := wrong(package, closed)), found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_layer_imports_what_it_must_not_know(package: str) -> None:
    """Catches a Kafka client below `streams`, and a Redis one in the pure core."""
    assert not (found := wrong(package, FORBIDDEN[package])), found


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Catches modules that can only be understood, and changed, together."""
    assert not (found := circles(arrows())), "\n".join(" -> ".join([*one, one[0]]) for one in found)


def test_no_folders_of_streams_import_each_other() -> None:
    """Catches two rooms that are one: each folder knows those before it, never the other way round."""
    between: dict[tuple[Path, Path], str] = {}
    for name, found in arrows().items():
        for other in found:
            here, there = modules()[name].parent, modules()[other].parent
            # A group of settings stands beside its owner and knows none of it, so that `streams.settings` may have it.
            if other.endswith(".config"):
                continue
            if here != there and top(name) == top(other) == "streams":
                between[here, there] = f"{name} imports {other}"
    both = [f"{between[a, b]}, and {between[b, a]}" for a, b in between if a < b and (b, a) in between]
    assert not both, "\n".join(both)


def test_groups_of_settings_know_nothing_of_their_owners() -> None:
    """Catches a group whose import, with every command, loads its owner."""
    known = {"schemas.setting", "freshet.connect"}
    found = {name: arrows()[name] - known for name in arrows() if name.endswith(".config") and "training" not in name}
    assert found
    assert not any(found.values()), found


def test_benchmarks_and_tests_are_no_circle() -> None:
    """Catches a test that needs a benchmark that needs the tests; what both need stands in tests/support."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.is_relative_to(ROOT / "tests" / "benchmarks"):
            continue
        found += [f"{path.relative_to(ROOT)}:{line}" for line, name in imports(path) if top(name) == "benchmarks"]
    for path in sorted((ROOT / "benchmarks").rglob("*.py")):
        found += [
            f"{path.relative_to(ROOT)}:{line}"
            for line, name in imports(path)
            if top(name) == "tests" and not name.startswith("tests.support")
        ]
    assert not found, "\n".join(found)


def test_nothing_that_ships_imports_what_does_not() -> None:
    """Catches code that works in a checkout and not when it is installed."""
    found = "\n".join(filter(None, (wrong(package, {"tests", "benchmarks", "docs"}) for package in LAYERS)))
    assert not found, found


def test_a_ranker_needs_no_more_than_the_sdk_brings() -> None:
    """Catches a reader that fails to import where only the SDK is installed."""
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files("freshet")
        for line, name in imports(path)
        if top(name) not in sys.stdlib_module_names | SDK_MAY_IMPORT | {"freshet"}
        # Which loads it when it is scraped.
        and not (top(name) == "prometheus_client" and path.name == "metrics.py")
    ]
    assert not found, "\n".join(found)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The sets of nodes that all reach each other, by names (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        path.append(node)
        for other in graph[node]:
            if other not in order:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in path:
                lowest[node] = min(lowest[node], order[other])
        if lowest[node] == order[node]:
            at = path.index(node)
            if len(path) - at > 1:
                found.append(sorted(path[at:]))
            del path[at:]

    for node in graph:
        if node not in order:
            visit(node)
    return found


def test_a_circle_is_found() -> None:
    """Catches a check that is content with any graph."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": set(), "c": {"a", "b"}}) == []


def loaded_by(*names: str) -> set[str]:
    """The top-level packages in memory after importing these modules in a new interpreter."""
    code = f"import {', '.join(names)}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_import_freshet_loads_nothing_heavy() -> None:
    """Catches a ranker that starts a second later."""
    heavy = KAFKA | {"torch", "transformers", "fastavro", "pyarrow", "httpx", "rich", "click", "pydantic"}
    heavy |= {"prometheus_client"}
    assert not loaded_by("freshet", "freshet.reader", "store.feature_writer") & heavy


def test_help_loads_nothing_heavy() -> None:
    """The command line answers at once: commands are imported when called."""
    assert not loaded_by("cli") & (KAFKA | {"torch", "transformers", "pyarrow", "rich"})


def test_the_core_loads_without_a_kafka_client() -> None:
    """Catches a client that comes in by a detour."""
    names = [name for name in modules() if top(name) in ("schemas", "store", "models", "processors")]
    assert not loaded_by(*names) & KAFKA


def test_a_worker_with_the_sink_alone_loads_no_model() -> None:
    """Catches an import of torch, or of a lane that is not run, by whatever puts a worker together."""
    code = (
        "import sys\n"
        "from streams.worker.worker import make_worker\n"
        "from streams.settings import Settings\n"
        "from streams.wiring.resources import Resources\n"
        "settings = Settings.load({}, redis='redis://127.0.0.1:1', kafka='127.0.0.1:1')\n"
        "make_worker(['sink'], Resources(settings, member=True))\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert "streams.lanes.sink" in loaded
    assert not loaded & {"torch", "faust", "transformers", "streams.lanes.item_distill", "streams.lanes.user_refresh"}
