"""The examples of `docs/` do what they say: readers in other languages against ours, the page's code, the ranker."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from freshet import FeatureReader, InferredBehavior
from freshet.layout import Keys
from store.feature_writer import Deletion, FeatureWriter
from store.versions import Versions
from tests.support.samples import item, user

DOCS = Path(__file__).parents[1] / "docs"
DIMS = 16
Program = Callable[..., list[list[str]]]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """The command that runs the example in this language; compiled once, skipped where there is no compiler."""
    commands: dict[str, list[str]] = {}

    def build(language: str) -> list[str]:
        compiler = {"go": "go", "java": "javac"}[language]
        if shutil.which(compiler) is None:
            pytest.skip(f"no {compiler} on this machine")
        if language not in commands:
            folder = tmp_path_factory.mktemp(language)
            if language == "go":
                make = ["go", "build", "-o", str(folder / "reader"), str(DOCS / "examples" / "reader.go")]
                commands[language] = [str(folder / "reader")]
            else:
                source = str(DOCS / "examples" / "FeatureReader.java")
                make = ["javac", "--release", "17", "-Xlint:all", "-Werror", "-d", str(folder), source]
                commands[language] = ["java", "-cp", str(folder), "FeatureReader"]
            offline = os.environ | {"GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "-p=1"}
            subprocess.run(make, check=True, env=offline, timeout=150)
        return commands[language]

    return build


@pytest.fixture(params=["go", "java"])
def program(request: Any, built: Callable[[str], list[str]], valkey: str) -> Program:
    """The example in one language: takes user and item ids, answers the fields of each line."""
    command = built(request.param)
    address = re.sub(r"^redis://|/.*$", "", valkey)

    def run(user_id: str, *item_ids: str) -> list[list[str]]:
        arguments = [*command, address, "f", user_id, *item_ids]
        done = subprocess.run(arguments, capture_output=True, encoding="utf-8", timeout=30)
        assert done.returncode == 0, done.stderr
        return [line.rsplit(" ", 4) for line in done.stdout.splitlines()]

    return run


@pytest.fixture
def client(valkey: str) -> Any:
    with redis.Redis.from_url(valkey) as connected:
        yield connected


def write(client: Any, dtype: str, version: str = "v1") -> None:
    """A catalogue of every kind of row, and a user."""
    rng = np.random.default_rng(5)

    def vector() -> bytes:
        return rng.normal(size=DIMS).astype("<f2").tobytes()

    subnormal = np.array([6e-8, -6e-5, 65504, -0.0] * (DIMS // 4), "<f2").tobytes()
    items = [item("plain", vector=vector()), item("knowing", vector=vector(), tier=2), item("tiny", vector=subnormal)]
    items += [item("a b ü", vector=vector()), item("dead", vector=vector())]
    changed = {"version": version, "dims": DIMS, "event_time": time.time_ns() // 1_000_000 - 5_000}
    writer = FeatureWriter(client, dtype=dtype)
    writer.put_items([item(one.item_id, vector=one.vector, tier=one.tier, **changed) for one in items])
    writer.put_users([user("u", log_vector=vector(), inferred_vector=vector(), **changed)])
    writer.delete_items(version, [Deletion("dead", changed["event_time"] + 1)])


IDS = ["plain", "none", "knowing", "tiny", "dead", "a b ü", "plain", "other"]


def compare(client: Any, program: Program) -> list[bool]:
    """What a program prints against our reader's answers before and after; answers which items are present."""
    with FeatureReader(client) as reader:
        before, lines, after = reader.read("u", IDS), program("u", *IDS), reader.read("u", IDS)
    dots = before.item_matrix.astype(np.float64) @ before.user.log_vector.astype(np.float64)
    assert [line[0] for line in lines] == IDS
    assert [line[1] for line in lines] == ["true" if one else "false" for one in before.present]
    assert [int(line[2]) for line in lines] == before.tier.tolist()
    for line, earliest, latest in zip(lines, before.age_seconds, after.age_seconds, strict=True):
        assert earliest - 0.002 <= float(line[3]) <= latest + 0.002
    assert [float(line[4]) for line in lines] == pytest.approx(dots.tolist(), rel=1e-4, abs=1e-4)
    return before.present.tolist()


def test_other_languages_read_what_we_read(program: Program, client: Any) -> None:
    """Catches a documented layout that its code does not follow, in either: header, float16, deletions, odd ids."""
    write(client, "float16")
    client.set(Keys().item("v1", "other"), b"not a blob" * 10)
    Versions(client).activate("v1")
    assert compare(client, program) == [True, False, True, True, False, True, True, False]
    assert {line[4] for line in program("nobody", *IDS)} <= {"0", "0.0", "-0", "-0.0"}


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("program", ["java"], indirect=True)
def test_every_dtype_is_read(program: Program, client: Any, dtype: str) -> None:
    """Catches a dtype that only our reader can decode."""
    write(client, dtype)
    Versions(client).activate("v1")
    assert compare(client, program) == [True, False, True, True, False, True, True, False]


def test_nothing_active_and_a_version_without_vectors(program: Program, client: Any) -> None:
    """Catches a first request that fails, or never ends."""
    absent = [["a", "false", "0"], ["b", "false", "0"]]
    assert [line[:3] for line in program("u", "a", "b")] == absent
    Versions(client).activate("v1")
    assert [line[:3] for line in program("u", "a", "b")] == absent


def test_no_answer_mixes_versions_while_they_are_swapped(program: Program, client: Any, valkey: str) -> None:
    """Catches a program that trusts the version it asked for, or decodes one version by the other's shape."""
    writer = FeatureWriter(client)
    for version, value, dims in (("v1", 1.0, DIMS), ("v2", -2.0, 2 * DIMS)):
        shape = {"version": version, "dims": dims}
        writer.put_items([item(name, value, **shape) for name in "abc"])
        writer.put_users([user("u", 1.0, **shape)])
    Versions(client).activate("v1")
    stopped = threading.Event()

    def swap() -> None:
        with redis.Redis.from_url(valkey) as own:
            while not stopped.is_set():
                for version in ("v1", "v2"):
                    own.set(Keys().active(), version)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(6):
            dots = {float(line[4]) for line in program("u", *"abc")}
            assert dots in ({16.0}, {-64.0})
    finally:
        stopped.set()
        swapper.join()


def test_the_pages_code_runs(valkey: str, client: Any) -> None:
    """Catches an example that a reader copies and that fails."""
    page = DOCS / "use" / "rankers" / "rank.md"
    [code] = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert '"redis://features:6379/0"' in code
    Versions(client).activate("v1")
    writer = FeatureWriter(client)
    writer.put_items([item(f"item-{n}", n - 2.0) for n in range(1, 6)])
    writer.put_users([user("user-7", 0.5, behaviors=[InferredBehavior("item-5", 0.5)])])
    names: dict[str, Any] = {}
    exec(code.replace("redis://features:6379/0", valkey), names)
    names["reader"].close()
    assert names["order"][-1] == 0  # items 1 and 5 point away from each other, and the log vector is on 5's side
    assert names["features"].column("behavior_nearest").tolist() == pytest.approx([-1, -1, 1])
    assert names["features"].column("history_sim_07").tolist() == [0, 0, 2]


def test_the_ranker_learns_from_freshets_columns(valkey: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an example that no longer runs, and columns that say nothing about what users like."""
    try:
        import lightgbm  # noqa: F401
    except (ImportError, OSError) as error:  # the wheel lacks libgomp, which a machine may lack too
        pytest.skip(f"no LightGBM: {error}")
    spec = importlib.util.spec_from_file_location("train_ranker", DOCS / "examples" / "train_ranker.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    sys.modules["train_ranker"] = example  # dataclasses look their module up
    try:
        spec.loader.exec_module(example)
        results = example.main(valkey)
    finally:
        del sys.modules["train_ranker"]
    assert results["with"] > results["without"] + 0.1
    printed = capsys.readouterr().out
    assert "history_nearest" in printed or "history_sim" in printed
    assert "behavior" in printed or "inferred" in printed
