"""Newer-wins writes beside plain `SET key blob PX ttl`: `python -m benchmarks.writer [--json]`.

One client and a Valkey of its own. Rivals write the same number of blobs of the same size over what is there, in the
same batches, each batch in one pipelined round trip through redis-py, and take turns in rounds; every write is newer
than what stands there, so each one counts. For items (which live for ever by default and are indexed), items with a
TTL, and users (with TTL, behaviors, no index):

- *set*: a pipeline of `SET PX`, blobs and keys made beforehand: it compares nothing, and lets an older value win;
- *put*: the calls of the server-side function that `FeatureWriter` makes, blobs and keys made beforehand as well;
- *writer*: the whole of `FeatureWriter.put_items` or `put_users` with records in hand, encoding included.

A rate is the median of the rounds' rates, a ratio that of the rounds' ratios. It is what one Python client reaches: a
function call for many keys spares redis-py as many commands to pack and replies to parse. The server's own CPU a write
is beside it, and there plain SET is cheaper: it is what counts where many clients saturate one server.

JSON keys: writes_per_s (*put*, items), set_per_s, ratio (*put* over *set*, items), ratio_with_encoding (*writer* over
*set*, items), ratio_of_server_cpu (*set* over *put*, items), kinds (everything by kind and rival), goals, conditions.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from statistics import median
from typing import Any

import redis
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from benchmarks.reader_client import VERSION, item, user
from benchmarks.reader_data import Data, item_id, user_id
from benchmarks.rounds import machine, rounded, turns
from freshet import blob
from freshet.layout import Keys
from local.stack.valkey import ValkeyServer
from store.feature_writer import KEYS_PER_CALL, FeatureWriter
from store.functions import Call, library

TTL_S = 30 * 86_400
RIVALS = ("set", "put", "writer")
GOAL = 1.3


@dataclass(frozen=True)
class Setting:
    """Sizes of a run."""

    records: int = 20_000
    dims: int = 128
    batch: int = 2_000
    rounds: int = 15


@dataclass(frozen=True)
class Kind:
    """One kind of record, and how it is written."""

    records: Callable[[int], list[Any]]
    """All of them, at an event time."""
    encode: Callable[[Sequence[Any]], list[bytes]]
    stem: Callable[[str, int], str]
    ids: list[str]
    writer: FeatureWriter
    put: Callable[[FeatureWriter, list[Any]], Sequence[int]]
    ttl_ms: int
    indexed: bool

    @property
    def keys(self) -> list[str]:
        """Where each record is."""
        return [self.stem(VERSION, 0) + one for one in self.ids]

    def calls(self, ids: Sequence[str], blobs: Sequence[bytes]) -> list[Call]:
        """What `FeatureWriter` asks the server for one batch."""
        places = [(VERSION, one) for one in ids]
        return self.writer._plan(self.stem, places, blobs, self.ttl_ms, indexed=self.indexed).calls


@dataclass
class Taken:
    """One rival's rounds."""

    rates: list[float] = field(default_factory=list)  # writes/s
    server_us: list[float] = field(default_factory=list)  # CPU a write


def kinds(client: redis.Redis, setting: Setting) -> dict[str, Kind]:
    """What is written."""
    count, keys = setting.records, Keys()
    data = Data.make(count, count, setting.dims)

    def items(ttl_s: int) -> Kind:
        return Kind(
            records=lambda event_time: [item(data, row, event_time) for row in range(count)],
            encode=blob.encode_items,
            stem=keys.item_stem,
            ids=[item_id(row) for row in range(count)],
            writer=FeatureWriter(client, ttl_s=TTL_S, item_ttl_s=ttl_s),
            put=FeatureWriter.put_items,
            ttl_ms=1_000 * ttl_s,
            indexed=True,
        )

    users = Kind(
        records=lambda event_time: [user(data, row, event_time) for row in range(count)],
        encode=blob.encode_users,
        stem=keys.user_stem,
        ids=[user_id(row) for row in range(count)],
        writer=FeatureWriter(client, ttl_s=TTL_S),
        put=FeatureWriter.put_users,
        ttl_ms=1_000 * TTL_S,
        indexed=False,
    )
    return {"items": items(0), "items with a TTL": items(TTL_S), "users": users}


def parts(whole: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """`whole` in pieces of `size`."""
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def work(client: redis.Redis, kind: Kind, rival: str, batch: int, event_time: int) -> Callable[[], int]:
    """What is timed, with all that is not prepared; it answers how many writes there were, or fails."""
    records = kind.records(event_time)
    blobs = kind.encode(records)

    def by_set() -> int:
        written = 0
        for own, values in zip(plain, parts(blobs, batch), strict=True):
            pipeline = client.pipeline(transaction=False)
            for key, value in zip(own, values, strict=True):
                pipeline.set(key, value, px=1_000 * TTL_S)
            written += sum(map(bool, pipeline.execute()))
        return written

    def by_put() -> int:
        return sum(sum(answer) for one in made for answer in library("features").call(client, "put", one))

    def by_writer() -> int:
        return sum(sum(kind.put(kind.writer, list(one))) for one in parts(records, batch))

    plain = parts([f"plain:{key}" for key in kind.keys], batch)
    made = [kind.calls(*pair) for pair in zip(parts(kind.ids, batch), parts(blobs, batch), strict=True)]
    return {"set": by_set, "put": by_put, "writer": by_writer}[rival]


def cpu_s(client: redis.Redis) -> float:
    """CPU seconds of the server's thread that runs commands."""
    used: Any = client.info("cpu")
    return float(used["used_cpu_user_main_thread"] + used["used_cpu_sys_main_thread"])


def measure(setting: Setting) -> dict[str, Any]:
    """The whole run."""
    with ValkeyServer() as server, redis.Redis.from_url(server.url) as client:
        found: dict[str, dict[str, Taken]] = {}
        event_time = 0
        for name, kind in kinds(client, setting).items():
            taken = found[name] = {rival: Taken() for rival in RIVALS}
            for number, rival in turns(RIVALS, setting.rounds + 1):
                event_time += 1
                write = work(client, kind, rival, setting.batch, event_time)
                gc.collect()
                gc.freeze()
                cpu, began = cpu_s(client), time.perf_counter()
                written = write()
                took, used = time.perf_counter() - began, cpu_s(client) - cpu
                gc.unfreeze()
                if written != setting.records:
                    raise RuntimeError(f"{rival} wrote {written} of {setting.records} {name}")
                if number:  # the first round finds nothing to replace
                    taken[rival].rates.append(written / took)
                    taken[rival].server_us.append(1e6 * used / written)
        return report(setting, found, machine(server))


def over(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the rounds' ratios."""
    return median(a / b for a, b in zip(above, below, strict=True))


def report(setting: Setting, found: dict[str, dict[str, Taken]], facts: dict[str, Any]) -> dict[str, Any]:
    """See the module's docstring."""
    told = {
        kind: {
            rival: {
                "writes_per_s": median(taken.rates),
                "server_us_per_write": median(taken.server_us),
                "ratio": over(taken.rates, rivals["set"].rates),
                "ratio_of_server_cpu": over(rivals["set"].server_us, taken.server_us),
            }
            for rival, taken in rivals.items()
        }
        for kind, rivals in found.items()
    }
    items = told["items"]
    answer: dict[str, Any] = rounded(
        {
            "writes_per_s": items["put"]["writes_per_s"],
            "set_per_s": items["set"]["writes_per_s"],
            "ratio": items["put"]["ratio"],
            "ratio_with_encoding": items["writer"]["ratio"],
            "ratio_of_server_cpu": items["put"]["ratio_of_server_cpu"],
            "goals": {
                kind: {"ratio": of["put"]["ratio"], "reached": of["put"]["ratio"] >= GOAL} for kind, of in told.items()
            },
            "kinds": told,
            "conditions": facts
            | {
                "records": setting.records,
                "batch": f"{setting.batch} writes in one round trip, at most {KEYS_PER_CALL} in one function call",
                "vectors": f"{setting.dims} dims, float16; users two each and 16 behaviors",
                "rounds": setting.rounds,
            },
        }
    )
    return answer


def show(found: dict[str, Any], console: Console) -> None:
    """A table a kind, and the conditions."""
    about = {
        "set": "SET PX, pipelined",
        "put": "newer wins, blobs in hand",
        "writer": "newer wins, FeatureWriter, encoding",
    }
    for kind, rivals in found["kinds"].items():
        table = Table(title=kind, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("who", min_width=37)
        for name in ("writes/s", "x SET", "CPU us", "x SET"):
            table.add_column(name, justify="right", no_wrap=True)
        for rival, row in rivals.items():
            rates = f"{row['writes_per_s']:,.0f}", f"{row['ratio']:.2f}"
            server = f"{row['server_us_per_write']:.2f}", f"{row['ratio_of_server_cpu']:.2f}"
            table.add_row(about[rival], *rates, *server, style="bold green" if rival == "put" else "")
        console.print(table)
        goal = found["goals"][kind]
        verdict = "[green]reached[/green]" if goal["reached"] else "[red]missed[/red]"
        console.print(f"  goal: newer wins over SET PX at least {GOAL}, is {goal['ratio']:.2f}: {verdict}\n")
    lines = [f"[dim]{name.replace('_', ' ')}[/dim]  {value}" for name, value in found["conditions"].items()]
    console.print(Panel("\n".join(lines), title="Conditions", border_style="dim"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; print tables, or one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.writer", description=(__doc__ or "").partition("\n")[0])
    for size in fields(Setting):
        parser.add_argument(f"--{size.name}", type=int, default=size.default)
    parser.add_argument("--json", action="store_true", help="one JSON line instead of tables")
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json")
    console = Console(stderr=as_json)
    with console.status("writing"):
        found = measure(Setting(**options))
    if as_json:
        print(json.dumps(found))
    else:
        show(found, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
