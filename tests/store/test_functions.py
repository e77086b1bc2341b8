"""Server-side libraries: what is put before a file, and what its digest covers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis

from store import functions
from store.functions import Library

LANGUAGE = {"function", "and", "or", "not", "if", "in", "while", "return", "ipairs", "unpack", "tonumber", "next"}
LIBRARIES = sorted(path.stem for path in functions._LUA.glob("[!_]*.lua"))


@pytest.fixture
def lua(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "_clock.lua").write_text("local clock = 1\n")
    (tmp_path / "_queue.lua").write_text("local queue = clock\n")
    (tmp_path / "own.lua").write_text("-- prelude: _clock.lua _queue.lua\nlocal own = 'DIGEST'\n")
    monkeypatch.setattr(functions, "_LUA", tmp_path)
    return tmp_path


def test_preludes_stand_before_the_file_in_the_order_of_its_first_line(lua: Path) -> None:
    """Catches a prelude that comes after what needs it: Lua would see a global that is not there."""
    library = Library("own")
    lines = [line for line in library.source.splitlines() if line]
    assert lines[0] == f"#!lua name=freshet_own_{library.digest}"
    assert lines[1:3] == ["local clock = 1", "local queue = clock"]
    assert lines[-1] == f"local own = '{library.digest}'"


@pytest.mark.parametrize("changed", ["_clock.lua", "_queue.lua", "own.lua"])
def test_a_change_of_any_part_is_another_library(lua: Path, changed: str) -> None:
    """Catches a release whose changed prelude keeps its name: workers of two releases would run each other's code."""
    before = Library("own").digest
    (lua / changed).write_text((lua / changed).read_text() + "-- changed\n")
    assert Library("own").digest != before


def test_a_prelude_that_is_not_there_is_an_error(lua: Path) -> None:
    """Catches a misspelled prelude that is left out in silence."""
    (lua / "own.lua").write_text("-- prelude: _clok.lua\n")
    with pytest.raises(FileNotFoundError, match="_clok"):
        Library("own")


@pytest.mark.parametrize("stem", LIBRARIES)
def test_every_library_uses_only_what_it_or_its_preludes_define(valkey: str, stem: str) -> None:
    """Catches a helper whose prelude the first line does not name: to Lua it is a global, absent until it is called."""
    library = Library(stem)
    with redis.Redis.from_url(valkey) as client:
        library.load(client)
    code = re.sub(r"--.*|'[^']*'", "", library.source.partition("\n")[2])
    defined = {
        name for names in re.findall(r"\blocal (?:function )?(\w+(?:, *\w+)*)", code) for name in names.split(", ")
    }
    called = set(re.findall(r"(?<![.\w])(\w+)\(", code))
    assert called - defined - LANGUAGE == set()
