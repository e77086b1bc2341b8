"""`freshet evaluate knowledge` as a script and a person see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli.evaluate
from cli import main
from tests.support.fakes_encoder import FakeEncoder
from tests.support.fakes_llm import FakeLlmServer

KEYS = ["precision", "recall", "f1", "hallucination", "coverage", "tokens_per_item", "calls_per_item", "n_items"]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    catalogue = [{"category": "Tea", "attribute": name} for name in ("Brand", "Size")]
    (tmp_path / "catalogue.json").write_text(json.dumps(catalogue))
    gold = json.dumps({"Brand": ["Brand Acme"], "Size": []})
    each = {"description": "Brand Acme tea", "category": "Tea", "attributes": gold}
    lines = [{"item_id": f"i{n}", "title": f"Acme tea {n}", **each} for n in range(6)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return ["--items", str(tmp_path / "items.jsonl"), "--catalogue", str(tmp_path / "catalogue.json")]


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.evaluate, "prepared_encoder", lambda *_: FakeEncoder())


@pytest.mark.parametrize("who", ["team", "naive", "no-examples"])
def test_the_last_line_is_the_score(files: list[str], who: str, tmp_path: Path) -> None:
    """Catches a key that a script waits for in vain, and a sample of another size."""
    with FakeLlmServer() as llm:
        arguments = ["evaluate", "knowledge", *files, "--llm", llm.url, "--who", who, "--limit", "4", "--json"]
        done = CliRunner().invoke(main, [*arguments, "--answers", str(tmp_path / "answers.jsonl")])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == KEYS
    assert found["n_items"] == 4
    assert found["calls_per_item"] == 1
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 4


def test_a_person_sees_each_category_and_what_to_do_next(files: list[str]) -> None:
    """Catches a table without its categories."""
    with FakeLlmServer() as llm:
        done = CliRunner().invoke(main, ["evaluate", "knowledge", *files, "--llm", llm.url])
    assert done.exit_code == 0, done.output
    assert "Tea" in done.stdout
    assert "6 items, 0 without an answer" in done.stdout
    assert "next:" in done.stdout


def test_an_endpoint_that_is_away_is_an_error(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a score of zero where nothing was asked."""
    monkeypatch.setattr("evaluation.knowledge.FIRST_PAUSE_S", 0.0)
    done = CliRunner().invoke(main, ["evaluate", "knowledge", *files, "--llm", "http://127.0.0.1:9/v1"])
    assert done.exit_code == 1
    assert "127.0.0.1:9" in done.output
