"""What a ranker's team installs: the wheel of `sdk/` alone, in its own environment, beside the ranker's code."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import redis

from freshet._version import DISTRIBUTION, __version__
from store.feature_writer import FeatureWriter
from store.versions import Versions
from tests.support.samples import item, user
from tests.support.servers import missing

ROOT = Path(__file__).resolve().parents[2]
DECOYS = ("schemas", "models", "streams", "processors", "evaluation", "store", "cli")
"""Folders of this repository whose names a ranker's own service may well use."""

RANKER = f"""
import sys
import {", ".join(DECOYS)}
from freshet import FeatureReader

with FeatureReader(sys.argv[1], timeout_s=10.0) as reader:
    found = reader.read("u1", [f"i{{n}}" for n in range(500)])
assert all(sys.modules[name].OWNER == "the ranker" for name in {DECOYS}), "a package of Freshet's came first"
print(int(found.present.sum()), found.item_matrix[:, 0].tolist() == list(range(500)), found.user.behaviors[0].item_id)
"""

CLIENT = """
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

from freshet import FeatureRead, FeatureReader, InferredBehavior, LocalCache, RankingReader, ReadMetrics
from freshet.testing import FakeItem, FakeReader


def rank(reader: FeatureReader, user_id: str, item_ids: list[str]) -> list[str]:
    found = assert_type(reader.read(user_id, item_ids), FeatureRead)
    scores = assert_type(found.item_matrix, NDArray[np.float32]) @ found.user.log_vector
    for behavior in found.user.behaviors:
        assert_type(behavior, InferredBehavior)
        print(assert_type(behavior.confidence, float), behavior.likelihood)
    ranked = RankingReader(reader).read(user_id, item_ids)
    print(assert_type(ranked.features.names, tuple[str, ...]))
    return [item_ids[index] for index in np.argsort(-scores).tolist()]


with FeatureReader("redis://features", cache=LocalCache(), observer=ReadMetrics()) as real:
    rank(real, "user", ["a"])
rank(FakeReader({"a": FakeItem([1.0]), "b": [0.5]}, {"user": [1.0]}), "user", ["a", "b"])
"""


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a program that must succeed, started without this process's PYTHONPATH."""
    done = subprocess.run(command, cwd=cwd, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves folders behind, and packs what an older one left."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "sdk", folder / "sdk", ignore=ignored)
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", *offline, "--wheel-dir", folder, "./sdk", cwd=folder)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and its requirements, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    versions = [f"{name}=={importlib.metadata.version(name)}" for name in ("numpy", "redis", "hiredis")]
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # pip's settings (an index, a cache, a proxy) come from the caller's environment, unlike in `run`.
    done = subprocess.run([*install, *versions], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"numpy and redis cannot be installed here: {done.stderr.strip()[-300:]}")
    run(*install, "--no-index", wheel, cwd=folder)
    return python


def repository_files() -> list[Path]:
    """Every text file of the repository, without the folders that tools make."""
    tops = [path for path in ROOT.iterdir() if not path.name.startswith(".") and path.name not in {"build", "dist"}]
    files = [path for top in tops for path in (top.rglob("*") if top.is_dir() else [top])]
    suffixes = {"", ".md", ".py", ".sh", ".toml", ".txt", ".yml", ".yaml", ".Dockerfile"}
    return [path for path in files if path.is_file() and path.suffix in suffixes]


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """The folder of a ranker that has packages of its own with the names of Freshet's folders."""
    for name in DECOYS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('OWNER = "the ranker"\n')
    (tmp_path / "ranker.py").write_text(RANKER)
    return tmp_path


def test_the_wheel_holds_one_package_and_what_types_need(wheel: Path) -> None:
    """Catches a second top-level name, which would overwrite or hide a ranker's own, and a lost `py.typed`."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = [archive.read(name).decode() for name in names if name.endswith("/METADATA")]
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"freshet", f"{DISTRIBUTION.replace('-', '_')}-{__version__}.dist-info"}
    assert "freshet/py.typed" in names
    sources = {path.relative_to(ROOT / "sdk" / "src").as_posix() for path in (ROOT / "sdk" / "src").rglob("*.py")}
    assert {name for name in names if name.startswith("freshet/")} == sources | {"freshet/py.typed"}
    assert not any(name.endswith("entry_points.txt") for name in names), "a ranker's PATH gets no command"
    required = re.findall(r"^Requires-Dist: ([a-z]+)", metadata, re.MULTILINE)
    assert sorted(required) == ["numpy", "redis"]


def test_a_ranker_with_packages_of_the_same_names_reads(valkey: str, python: Path, service: Path) -> None:
    """Catches an SDK that imports a package which only the application has: the ranker's own would be loaded."""
    with redis.Redis.from_url(valkey) as client:
        Versions(client).activate("v1")
        writer = FeatureWriter(client)
        writer.put_items([item(f"i{n}", float(n)) for n in range(500)])
        writer.put_users([user("u1")])
    assert run(python, "ranker.py", valkey, cwd=service).split() == ["500", "True", "i1"]


def test_import_loads_nothing_but_numpy_and_redis(python: Path, tmp_path: Path) -> None:
    """Catches a heavy or an undeclared import, which makes a ranker start late or not at all."""
    code = "import sys; before = set(sys.modules); import freshet, freshet.testing; print(*set(sys.modules) - before)"
    loaded = {name.partition(".")[0] for name in run(python, "-c", code, cwd=tmp_path).split()}
    of_redis = {"hiredis", "async_timeout"}  # what redis requires itself
    assert loaded - sys.stdlib_module_names - of_redis == {"freshet", "numpy", "redis"}


def test_mypy_sees_the_types_of_an_installed_wheel(python: Path, tmp_path: Path) -> None:
    """Catches a public type that is Any for a ranker: then mypy finds none of the ranker's mistakes."""
    (tmp_path / "client.py").write_text(CLIENT)
    command: list[Any] = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--python-executable", python]
    done = subprocess.run(
        [*command, "--cache-dir", tmp_path / "cache", "client.py"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    [line] = [number for number, text in enumerate(CLIENT.splitlines(), 1) if "likelihood" in text]
    wanted = f'client.py:{line}: error: "InferredBehavior" has no attribute "likelihood"  [attr-defined]'
    assert done.stdout.splitlines() == [wanted]


def test_application_and_sdk_are_of_one_version() -> None:
    """Catches a release whose application requires another SDK than the one in this repository."""
    application = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sdk = tomllib.loads((ROOT / "sdk" / "pyproject.toml").read_text())["project"]
    assert sdk["name"] == DISTRIBUTION
    assert application["version"] == __version__
    assert [one for one in application["dependencies"] if DISTRIBUTION in one] == [f"{DISTRIBUTION}=={__version__}"]
    assert "Private :: Do Not Upload" in application["classifiers"]


def test_nothing_tells_to_install_another_projects_package() -> None:
    """Catches `pip install freshet`: that name on PyPI is another project's; ours are on no index or end in -sdk."""
    install = re.compile(rf"pip3? install[^\n`]*?[\s'\"]freshet(?!{DISTRIBUTION.removeprefix('freshet')}\b)[^\n]*")
    of_patterns = {Path(__file__), ROOT / "tests" / "docs" / "test_words.py"}
    texts = [path for path in repository_files() if path not in of_patterns]
    assert ROOT / "README.md" in texts
    found = {path: install.findall(path.read_text(errors="ignore")) for path in texts}
    wrong = [f"{path.relative_to(ROOT)}: {line}" for path, lines in found.items() for line in lines]
    assert not wrong, "\n".join(wrong)
