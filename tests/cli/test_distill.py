"""`freshet distill` as a person or a script meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli import main
from schemas.knowledge_file import read_knowledge
from tests.support.fakes_llm import FakeLlmServer, Trouble

TITLES = ["Oak chair", "Blue kettle", "Running shoe", "Tea infuser", "Desk lamp"]


@pytest.fixture
def items(tmp_path: Path) -> Path:
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps({"item_id": f"i{n}", "title": t}) + "\n" for n, t in enumerate(TITLES)))
    return path


def run(*arguments: object, tmp_path: Path) -> Result:
    environment = {"FRESHET_HOME": str(tmp_path / "home")}
    return CliRunner().invoke(main, ["distill", *map(str, arguments)], env=environment)


def last_line(result: Result) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(result.output.strip().splitlines()[-1])
    return answer


@pytest.mark.parametrize("name", ["k.jsonl", "k.parquet"])
def test_a_file_becomes_knowledge_and_a_second_run_costs_nothing(items: Path, tmp_path: Path, name: str) -> None:
    """Catches an output that cannot be read, and a resume that asks again (the model's name is learned at a call)."""
    out = tmp_path / name
    with FakeLlmServer() as server:
        first = run("--items", items, "--out", out, "--llm", server.url, "--json", tmp_path=tmp_path)
        assert first.exit_code == 0, first.output
        asked = server.served
        second = run("--items", items, "--out", out, "--llm", server.url, "--json", tmp_path=tmp_path)
        assert server.served == asked
    answer = last_line(first)
    assert (answer["items"], answer["fresh"], answer["failed"], answer["complete"]) == (5, 5, 0, True)
    assert answer["calls"] == asked
    assert answer["tokens_in"] == 100 * asked
    assert last_line(second)["there"] == 5
    assert {k.item_id for k in read_knowledge(out)} == {f"i{n}" for n in range(5)}


def test_the_summary_says_what_comes_next(items: Path, tmp_path: Path) -> None:
    """Catches a command that leaves a person without the next step."""
    with FakeLlmServer() as server:
        result = run(
            "--items", items, "--out", tmp_path / "k.jsonl", "--llm", server.url, "--limit", 2, tmp_path=tmp_path
        )
    assert result.exit_code == 0, result.output
    assert "2 items: 0 were there, 2 distilled, 0 failed" in result.output
    assert "next: freshet evaluate knowledge" in result.output


def test_nothing_but_failures_is_exit_code_1(items: Path, tmp_path: Path) -> None:
    """Catches a script that goes on with an empty file."""
    with FakeLlmServer(Trouble(always="400")) as server:
        result = run("--items", items, "--out", tmp_path / "k.jsonl", "--llm", server.url, "--json", tmp_path=tmp_path)
    assert result.exit_code == 1
    assert last_line(result)["failed"] == 5
    failures = [json.loads(line) for line in (tmp_path / "k.jsonl.failed.jsonl").read_text().splitlines()]
    assert {failure["reason"] for failure in failures} == {"llm_rejected"}


def test_without_a_model_it_says_what_to_do(items: Path, tmp_path: Path) -> None:
    """Catches a run that waits for an endpoint nobody named."""
    result = run("--items", items, "--out", tmp_path / "k.jsonl", tmp_path=tmp_path)
    assert result.exit_code == 2
    for way in ("--llm URL", "FRESHET_LLM", "freshet up", "--engine"):
        assert way in result.output
    assert not (tmp_path / "k.jsonl").exists()


def test_wrong_settings_end_it_at_once(items: Path, tmp_path: Path) -> None:
    """Catches credentials that are refused being taken for a fault of the items, or tried for ever."""
    with FakeLlmServer(Trouble(always="401")) as server:
        result = run("--items", items, "--out", tmp_path / "k.jsonl", "--llm", server.url, tmp_path=tmp_path)
    assert result.exit_code == 1
    assert "401" in result.output
    missing = run("--items", items, "--out", tmp_path / "k.jsonl", "--engine", tmp_path, tmp_path=tmp_path)
    assert missing.exit_code == 1
    assert "vLLM" in missing.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_go_on(items: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Catches a traceback on Ctrl-C, and a file the next run cannot go on with."""
    out = tmp_path / "k.jsonl"
    with FakeLlmServer(Trouble(delay_s=0.4)) as server:
        command = ["distill", "--items", items, "--out", out, "--llm", server.url, "--concurrency", "1"]
        child = subprocess.Popen(
            [sys.executable, "-m", "cli", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "FRESHET_HOME": str(tmp_path), "PYTHONWARNINGS": "ignore"},
        )
        while child.poll() is None and not (out.exists() and out.read_text().count("\n")):
            time.sleep(0.02)
        child.send_signal(number)
        output, errors = child.communicate(timeout=30)
        server.trouble.delay_s = 0
        second = run("--items", items, "--out", out, "--llm", server.url, "--json", tmp_path=tmp_path)
    assert child.returncode == 130, errors
    assert "Traceback" not in errors
    assert "the same command goes on" in output
    answer = last_line(second)
    assert answer["there"] > 0
    assert answer["there"] + answer["fresh"] == 5


def test_the_command_needs_no_kafka_or_redis_client_of_its_own() -> None:
    """Catches an import that keeps the command out of vLLM's environment; `freshet` itself brings redis."""
    code = (
        "import sys; import cli.distill; "
        "print({'faust', 'confluent_kafka', 'fastavro', 'torch', 'transformers', 'vllm'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
