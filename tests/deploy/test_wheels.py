"""The image has all of it: wheels of exactly the folders that the Dockerfile copies run every command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cli import main
from deploy import wheels

ROOT = Path(__file__).resolve().parents[2]


def copied() -> list[str]:
    """The files and folders that the Dockerfile's build stage has when it installs Freshet."""
    lines = re.findall(r"^COPY (?!--)(.+)$", (ROOT / "Dockerfile").read_text(), re.M)
    names = [name for line in lines for name in line.split()[:-1]]
    return [name for name in names if not name.startswith(("constraints/", "deploy/"))]


def every_command(command: click.Command = main, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """`()`, `("dlq",)`, `("dlq", "list")` ...: each command and subcommand."""
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from every_command(found, (*words, name))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both wheels unpacked, and nothing of what they depend on."""
    folder = tmp_path_factory.mktemp("wheels")
    built = wheels.build(folder / "dist", copied())
    assert len(built) == 2
    target = folder / "target"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*install, *map(str, built)], check=True)
    return target


# One process calls all of them: each import of torch costs two seconds. The checkout is out of sight: an editable
# install would put it on the path behind `target`, where a forgotten folder would be found after all.
_HELP_OF_ALL = """\
import contextlib, io, json, sys
target, checkout, *rest = sys.argv[1:]
sys.path[:] = [target, *(entry for entry in sys.path[1:] if entry not in (checkout, checkout + "/sdk/src"))]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
import cli
assert cli.__file__.startswith(target), cli.__file__
for line in sys.stdin:
    words = json.loads(line)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            code = cli.main([*words, "--help"], standalone_mode=False, prog_name="freshet")
        print(json.dumps([words, "Usage: freshet" in shown.getvalue(), ""]))
    except BaseException as error:
        print(json.dumps([words, False, f"{type(error).__name__}: {error}"]))
files = [str(getattr(module, "__file__", "")) for module in sys.modules.values()]
outside = [file for file in files if file.startswith(checkout + "/") and "site-packages" not in file]
assert not outside, outside
"""


def run(code: str, arguments: list[str], stdin: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A bare interpreter in an empty folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, input=stdin, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_every_command_of_the_image_shows_its_help(installed: Path, tmp_path: Path) -> None:
    """Catches a folder that the Dockerfile forgets, and a file that no wheel carries."""
    commands = list(every_command())
    assert len(commands) > 30
    lines = "".join(json.dumps(words) + "\n" for words in commands)
    done = run(_HELP_OF_ALL, [str(installed), str(ROOT)], lines, tmp_path / "empty")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(commands)
    assert [(" ".join(words), error) for words, shown, error in answers if not shown] == []


def test_the_wheels_carry_every_file_that_code_opens(installed: Path) -> None:
    """Catches prompts, Lua, schemas, pins and other files left out of the wheel."""
    data = (".avsc", ".lua", ".txt", ".xml", ".jsonl", ".toml", ".typed", ".json", ".csv")
    shipped = [Path(name) for name in copied() if (ROOT / name).is_dir() and name != "sdk"]
    for folder in (*shipped, Path("sdk/src")):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in data and "egg-info" not in str(path) and "build" not in path.parts:
                inside = path.relative_to(ROOT / "sdk/src" if folder == Path("sdk/src") else ROOT)
                assert (installed / inside).exists(), inside


def closure(name: str) -> set[str]:
    """The distributions that one brings without extras, itself included."""
    found: set[str] = set()
    wanted = [Requirement(name)]
    while wanted:
        requirement = wanted.pop()
        key = f"{canonicalize_name(requirement.name)}[{','.join(sorted(requirement.extras))}]"
        if key in found:
            continue
        found.add(key)
        for line in distribution(requirement.name).requires or ():
            needed = Requirement(line)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(needed)
    return {key.partition("[")[0] for key in found}


_ONLY = """\
import sys
target, checkout, absent = sys.argv[1], sys.argv[2], set(sys.argv[3].split(","))
sys.path[:] = [target, *(entry for entry in sys.path[1:] if entry not in (checkout, checkout + "/sdk/src"))]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r} in the base", name=name)
sys.meta_path.insert(0, Absent())
import cli
cli.main(["distill", "--help"], prog_name="freshet")
"""


def test_the_base_without_extras_distills(installed: Path, tmp_path: Path) -> None:
    """Catches an import that breaks `freshet distill` in vLLM's environment, where the base alone is installed."""
    [wheel] = installed.glob("freshet_app-*.dist-info")
    base = [Requirement(line) for line in Distribution.at(wheel).requires or ()]
    names = set[str]()
    for requirement in base:
        if requirement.marker is None and requirement.name != "freshet-sdk":
            names |= closure(str(requirement))
    [sdk] = installed.glob("freshet_sdk-*.dist-info")
    for line in Distribution.at(sdk).requires or ():
        names |= closure(line)
    there = {module for name in names for module in top_level(distribution(name))}
    there |= {path.name for path in installed.iterdir()}
    absent = {module for other in distributions() for module in top_level(other)} - there
    assert {"torch", "transformers", "confluent_kafka", "faust"} <= absent
    done = run(_ONLY, [str(installed), str(ROOT), ",".join(sorted(absent))], "", tmp_path / "empty")
    assert done.returncode == 0, done.stderr
    assert "Usage: freshet distill" in done.stdout


def top_level(installed: Distribution) -> set[str]:
    """The modules that a distribution installs at the top."""
    files = installed.files or ()
    return {file.parts[0].partition(".")[0] for file in files if not file.parts[0].endswith((".dist-info", ".data"))}
