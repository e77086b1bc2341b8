"""JSON lines that survive crashes."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.json_lines import Lines, LinesError, read_lines


def test_a_torn_last_line_is_cut_off_and_the_rest_kept(tmp_path: Path) -> None:
    """Catches a file that no run can go on with after `kill -9`, or a new line glued to half an old one."""
    path = tmp_path / "deep" / "k.jsonl"
    with Lines(path) as lines:
        lines.append({"n": 1})
        lines.append({"n": 2})
    with path.open("ab") as file:
        file.write(b'{"n": 3, "text": "' + b"x" * 200_000)
    with Lines(path) as lines:
        lines.append({"n": 4})
        assert list(lines.read()) == [{"n": 1}, {"n": 2}, {"n": 4}]


def test_a_file_with_nothing_but_a_torn_line_is_empty(tmp_path: Path) -> None:
    """Catches a search for a line feed that never ends, or stops one byte short."""
    path = tmp_path / "k.jsonl"
    path.write_bytes(b'{"n"')
    with Lines(path) as lines:
        assert list(lines.read()) == []
    assert path.read_bytes() == b""


def test_a_line_is_there_before_the_file_is_closed(tmp_path: Path) -> None:
    """Catches results that wait in a buffer while the process is killed."""
    with Lines(tmp_path / "k.jsonl") as lines:
        lines.append({"title": "ĝ \ud800"})
        assert list(read_lines(tmp_path / "k.jsonl")) == [{"title": "ĝ \ud800"}]


def test_two_writers_of_one_file_are_refused(tmp_path: Path) -> None:
    """Catches two runs that mix their lines; also after the file was replaced."""
    with Lines(tmp_path / "k.jsonl") as lines:
        lines.rewrite([{"n": 1}])
        with pytest.raises(LinesError, match="another process"):
            Lines(tmp_path / "k.jsonl")
        lines.append({"n": 2})
        assert list(lines.read()) == [{"n": 1}, {"n": 2}]


def test_a_foreign_line_is_named(tmp_path: Path) -> None:
    """Catches a wrong --out that is overwritten, or an error that does not say where."""
    path = tmp_path / "notes.txt"
    path.write_text("{}\nbuy milk\n")
    with Lines(path) as lines, pytest.raises(LinesError, match="line 2"):
        list(lines.read())
