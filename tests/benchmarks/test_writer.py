"""The writer benchmark on a few records: that rivals do the same work, and that nobody's writes are lost."""

from __future__ import annotations

import json
from io import StringIO

import pytest
import redis
from rich.console import Console

from benchmarks import writer
from benchmarks.rounds import turns
from store.feature_writer import FeatureWriter

SETTING = writer.Setting(records=30, dims=16, batch=20, rounds=2)


@pytest.mark.valkey
def test_a_run_tells_every_key_and_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a benchmark that fails, or whose table is cut off, found on the day of the figures."""
    assert writer.main(["--records", "30", "--dims", "16", "--batch", "20", "--rounds", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"writes_per_s", "set_per_s", "ratio", "ratio_with_encoding", "ratio_of_server_cpu"} <= told.keys()
    assert told["kinds"].keys() == told["goals"].keys() == {"items", "items with a TTL", "users"}
    assert all(goal["reached"] is (goal["ratio"] >= 1.3) for goal in told["goals"].values())
    shown = StringIO()
    writer.show(told, Console(file=shown, width=80))
    heads = [line.split() for line in shown.getvalue().splitlines() if "writes/s" in line]
    assert heads == [["who", "writes/s", "x", "SET", "CPU", "us", "x", "SET"]] * 3  # else a table is cut off


@pytest.mark.parametrize("name", ["items", "items with a TTL", "users"])
def test_every_rival_leaves_the_same_blobs(valkey: str, name: str) -> None:
    """Catches a rival that is fast because it writes less, or that is refused as older."""
    with redis.Redis.from_url(valkey) as client:
        kind = writer.kinds(client, SETTING)[name]
        left = {}
        for event_time, (_, rival) in enumerate(turns(writer.RIVALS, 2), 1):
            assert writer.work(client, kind, rival, SETTING.batch, event_time)() == SETTING.records
            keys = [f"plain:{key}" for key in kind.keys] if rival == "set" else kind.keys
            left[rival] = [(client.get(key)[8:16], len(client.get(key)), client.pttl(key) > 0) for key in keys]
            assert {time for time, *_ in left[rival]} == {event_time.to_bytes(8, "little")}
        assert {length for _, length, _ in left["put"]} == {length for _, length, _ in left["set"]}
        assert [lives for *_, lives in left["put"]] == [lives for *_, lives in left["writer"]]
        assert all(lives for *_, lives in left["put"]) is (name != "items")
        indexed = client.zcard("f:v1:items")
    assert indexed == (0 if name == "users" else SETTING.records)


@pytest.mark.valkey
def test_a_write_that_was_refused_is_no_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a rate of writes that newer wins turned down."""
    monkeypatch.setattr(FeatureWriter, "put_items", lambda _self, items: [0] * len(items))
    with pytest.raises(RuntimeError, match="writer wrote 0 of 30 items"):
        writer.measure(SETTING)
