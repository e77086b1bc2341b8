"""The reader benchmark on a toy catalogue: that rivals read the same, and that its figures are what they say."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from benchmarks import feast_peer, reader
from benchmarks.children import Child
from benchmarks.reader_data import Data, Requests
from benchmarks.reader_report import report, show
from benchmarks.rounds import Taken, ratio, rounded, turns
from local.stack.valkey import ValkeyServer

ROUND = [1.0, 2.0, 3.0, 4.0]


def rows_of(made: Data, ids: list[str]) -> NDArray[np.float32]:
    return made.items[[int(one.removeprefix("item")) for one in ids]].astype(np.float32)


def taken(scale: float, rounds: int = 3) -> Taken:
    return Taken([[scale * number * one for one in ROUND] for number in range(1, rounds + 1)], seconds=0.002)


def scenes(*, feast: bool) -> dict[str, dict[str, Taken]]:
    ours = {"bare": taken(1.0), "sync": taken(0.5), "cache": taken(0.25), "cache_1s": taken(0.5), "async": taken(2.0)}
    ours["cache"].hit_rates = ours["cache_1s"].hit_rates = [1.0]
    alone = ours | {"sync_out": taken(0.5), "bare_async": taken(4.0)}
    if feast:
        alone |= {"feast_packed_2": taken(8.0), "feast_to_dict": taken(32.0)}
    return {"alone": alone, "cold": ours, "popular": ours, "clients": ours, "writer": ours}


def test_a_run_reads_the_same_in_every_way_and_tells_every_key(valkey: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a benchmark that fails on the day of the figures."""
    sizes = ["--items", "300", "--users", "20", "--candidates", "10", "--rounds", "1", "--requests", "5"]
    assert reader.main([*sizes, "--clients", "2", "--write-rate", "2000", "--no-feast", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"p50_ms", "p99_ms", "p999_ms", "bare_p50_ms", "ratio_to_bare"} <= told.keys()
    assert [told[key] for key in ("feast_p50_ms", "feast_p99_ms", "ratio_to_feast")] == [None, None, None]
    assert told["scenes"].keys() == {"alone", "cold", "popular", "clients", "writer"}
    assert told["scenes"]["clients"]["sync"]["requests"] == 2  # a fifth of the requests, of each client
    assert told["scenes"]["alone"]["cache"]["hit_rate"] == 1.0
    assert 0 < told["conditions"]["writes_per_s_reached"] < 2_500
    assert all(row["p50_ms"] > 0 for scene in told["scenes"].values() for row in scene.values())


def test_every_way_reads_what_was_stored(valkey: str, tmp_path: Path) -> None:
    """Catches a ratio between two who do not do the same work."""
    made = Data.make(50, 5, 16)
    made.save(tmp_path)
    with Child([sys.executable, "-m", "benchmarks.reader_client"]) as client:
        client.ask(do="open", url=valkey, folder=str(tmp_path), candidates=10)
        client.ask(do="fill")
        reader.check(lambda _way: client, ["sync", "sync_out", "async", "bare_async", "cache"])
        found = client.ask(do="check", way="sync", seed=3)
    [(user, ids)] = Requests(50, 5, 10).draw(1, 3)
    assert np.allclose(found["rows"], rows_of(made, ids).sum(1))
    assert np.allclose(found["first"], rows_of(made, ids)[0])
    assert np.allclose(found["user"], made.users[int(user.removeprefix("user"))].ravel())


def test_a_rival_that_reads_other_vectors_is_refused() -> None:
    """Catches a rival whose table is empty, and whose answers are therefore fast."""

    class Rival:
        def ask(self, way: str, **_wish: object) -> dict[str, list[float]]:
            return {"rows": [1.0, 2.0], "first": [0.0 if way == "sync" else 0.5]}

    with pytest.raises(RuntimeError, match="sync read other vectors"):
        reader.check(lambda _way: Rival(), ["async", "sync"])  # type: ignore[arg-type,return-value]


def test_candidates_are_distinct_and_popular_ones_come_more_often() -> None:
    """Catches candidates that repeat, which a cache or Feast's own de-duplication would make cheaper."""
    requests = Requests(1_000, 3, 100)
    for popular in (0.0, 1.0):
        drawn = requests.draw(20, 1, popular)
        assert all(len(set(ids)) == 100 for _, ids in drawn)
    head = {f"item{row:08d}" for row in range(100)}
    shares = [np.mean([one in head for _, ids in requests.draw(50, 2, popular) for one in ids]) for popular in (0, 1.0)]
    assert 0.08 < shares[0] < 0.12
    assert shares[1] > 0.25
    assert requests.draw(2, 5) == requests.draw(2, 5) != requests.draw(2, 6)


def test_figures_are_medians_of_rounds() -> None:
    """Catches a ratio of pooled requests, which one noisy round decides."""
    one, other = taken(1.0), taken(2.0)
    other.rounds[1] = [500.0] * 4
    assert one.summary()["p50_ms"] == 5.0
    assert ratio(other, one, 50) == 2.0
    assert one.summary()["requests_per_s"] == 6_000.0
    assert one.summary()["p999_ms"] == pytest.approx(np.percentile([n * x for n in (1, 2, 3) for x in ROUND], 99.9))
    assert list(turns("ab", 2)) == [(0, "a"), (0, "b"), (1, "b"), (1, "a")]
    assert rounded({"a": [1.23456, 7], "b": None}) == {"a": [1.235, 7], "b": None}


@pytest.mark.parametrize("feast", [True, False])
def test_the_report_compares_with_the_faster_mode_of_feast_and_says_what_is_missing(feast: bool) -> None:
    """Catches a rival taken at its slower mode, and a goal called reached that nobody measured."""
    facts = {
        "clients": 8,
        "writes_per_s_reached": 5,
        "writes_per_s_wanted": 6,
        "feast": {"feast": "1"} if feast else {},
    }
    told = report(scenes(feast=feast), facts)
    assert (told["ratio_to_bare"], told["p50_ms"], told["bare_p50_ms"]) == (0.5, 2.5, 5.0)
    assert (told["feast_p50_ms"], told["ratio_to_feast"]) == ((40.0, 16.0) if feast else (None, None))
    assert told["scenes"]["alone"]["async"]["ratio_to_bare"] == 0.5  # over asyncio's own
    goals = {goal["goal"]: goal["reached"] for goal in told["goals"]}
    assert goals["read(), p99 in ms"] is False
    assert goals["read() over bare, warm, p50"] is True
    assert goals["Feast over read(), p50"] is (True if feast else None)
    shown = StringIO()
    show(told, Console(file=shown, width=80))
    assert ("Feast was left out" in shown.getvalue()) is not feast
    assert ("not measured" in shown.getvalue()) is not feast
    heads = [line for line in shown.getvalue().splitlines() if "p50 ms" in line]
    assert [line.split()[-2:] for line in heads] == [["x", "p99"]] * 5  # else a table is cut off


@pytest.mark.valkey
def test_feast_reads_the_same_vectors(tmp_path: Path) -> None:
    """Catches a peer that answers fast because it answers something else."""
    if not feast_peer.ready():
        pytest.skip("no .venv-feast, or not of today's pins: `python -m benchmarks.reader` makes it")
    made = Data.make(40, 4, 16)
    made.save(tmp_path)
    with ValkeyServer() as server, feast_peer.start(feast_peer.prepare()) as client:
        address = f"127.0.0.1:{server.port}"
        assert client.ask(do="open", address=address, folder=str(tmp_path), candidates=10)["feast"]
        client.ask(do="fill")
        answers = [
            client.ask(do="check", way=way, seed=3) for way in ("feast_packed", "feast_packed_2", "feast_to_dict")
        ]
        assert len(client.ask(do="round", way="feast_packed_2", requests=2, seed=1, clients=2)["ms"]) == 4
    [(_, ids)] = Requests(40, 4, 10).draw(1, 3)
    assert all(np.allclose(answer["rows"], rows_of(made, ids).sum(1), atol=1e-4) for answer in answers)
    assert answers[0]["user"] == answers[1]["user"]
