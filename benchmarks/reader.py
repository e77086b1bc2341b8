"""A ranker's read beside its rivals, on one machine in one run: `python -m benchmarks.reader [--json] [--no-feast]`.

A request is one user and random candidates, vectors in float32 at the end. A Valkey of its own holds the items, written
by `FeatureWriter`; clients are processes on the same machine. Rivals: bare redis-py (`MGET` of the very same values,
join, `frombuffer`, `astype`), the same over asyncio, and Feast with its Redis store (in `.venv-feast`, made on the
first run) in two modes. They take turns in rounds, so that noise hits all alike. p50 and p99 are medians of the rounds'
percentiles, p999 is that of all requests together; a ratio is the median of the rounds' ratios.

Scenes: *alone*; *cold*, the CPU's caches emptied before each request; *popular*, candidates that fall off as 1 / rank,
with a local cache of one second; *clients*, several at once; *writer*, while one more process refreshes items through
`FeatureWriter` at a given rate.

JSON keys: p50_ms, p99_ms, p999_ms (`FeatureReader.read`, alone), bare_p50_ms, feast_p50_ms, feast_p99_ms (its faster
mode), ratio_to_bare, ratio_to_bare_p99 (ours over bare), ratio_to_feast, ratio_to_feast_p99 (Feast over ours),
writer_p99_ms, goals, scenes (everything by scene and way) and conditions.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import feast_peer
from benchmarks.children import Child
from benchmarks.reader_data import Data
from benchmarks.reader_report import FEAST, report, show
from benchmarks.rounds import Scene, Taken, machine, turns
from local.stack.valkey import ValkeyServer

FEAST_SHARE = {"feast_packed_2": 5, "feast_to_dict": 20}
"""Feast gets so many times fewer requests a round, as each takes twenty or forty times longer."""


@dataclass(frozen=True)
class Setting:
    """Sizes of a run."""

    items: int = 200_000
    users: int = 5_000
    dims: int = 128
    candidates: int = 500
    rounds: int = 12
    requests: int = 500
    clients: int = 8
    write_rate: int = 50_000
    feast: bool = True


class Arena:
    """The server, our clients and perhaps Feast's: filled and ready."""

    def __init__(self, setting: Setting, stack: ExitStack, say: Callable[[str], None]) -> None:
        self.setting = setting
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="freshet-reader-"))
        Data.make(setting.items, setting.users, setting.dims).save(Path(folder))
        say("starting Valkey and the clients")
        self.server = stack.enter_context(ValkeyServer())
        children = [stack.enter_context(_our_client()) for _ in range(setting.clients + 1)]
        *self.clients, self.writer = children
        opened = {"folder": folder, "candidates": setting.candidates}
        for child in children:
            child.tell(do="open", url=self.server.url, **opened)
        for child in children:
            child.hear()
        say(f"writing {setting.items:,} items with FeatureWriter")
        self.fill_s = {"freshet": self.clients[0].ask(do="fill")["s"]}
        self.feast: Child | None = None
        self.feast_versions: dict[str, str] = {}
        if setting.feast:
            say("preparing .venv-feast")
            self.feast = stack.enter_context(feast_peer.start(feast_peer.prepare()))
            address = f"127.0.0.1:{self.server.port}"
            self.feast_versions = self.feast.ask(do="open", address=address, **opened)
            say(f"writing {setting.items:,} items with Feast")
            self.fill_s["feast"] = self.feast.ask(do="fill")["s"]

    def child(self, way: str) -> Child:
        """Who reads this way alone."""
        if way not in FEAST:
            return self.clients[0]
        assert self.feast is not None
        return self.feast

    @contextmanager
    def written_to(self) -> Iterator[list[float]]:
        """The writer at work; at the end the list holds the writes a second that it reached."""
        reached: list[float] = []
        self.writer.tell(do="write", rate=self.setting.write_rate)
        try:
            time.sleep(1.0)
            yield reached
        finally:
            self.writer.tell(do="stop")
            reached.append(self.writer.hear()["writes_per_s"])
            self.writer.hear()


def check(child: Callable[[str], Child], ways: Sequence[str]) -> None:
    """Refuse to compare what does not read the same vectors."""
    wanted = child("bare").ask(do="check", way="bare", seed=0)
    for way in ways:
        found = child(way).ask(do="check", way=way, seed=0)
        if not all(np.allclose(found[key], wanted[key], atol=1e-3) for key in wanted):
            raise RuntimeError(f"{way} read other vectors than bare")


def _our_client() -> Child:
    return Child([sys.executable, "-m", "benchmarks.reader_client"])


def _half(rounds: int) -> int:
    """Of the rounds, for all clients at once: a round of theirs has many more requests."""
    return (rounds + 1) // 2


def _share(way: str, requests: int) -> int:
    return max(1, requests // FEAST_SHARE.get(way, 1))


def one_client(arena: Arena, ways: Sequence[str], requests: int, advance: Callable[[], None], **more: Any) -> Scene:
    """Rounds of one client."""
    scene: Scene = {way: Taken() for way in ways}
    for number, way in turns(ways, arena.setting.rounds):
        answer = arena.child(way).ask(do="round", way=way, requests=_share(way, requests), seed=number, **more)
        _record(scene[way], [answer], answer["s"])
        advance()
    return scene


def all_clients(arena: Arena, ways: Sequence[str], requests: int, advance: Callable[[], None]) -> Scene:
    """Rounds of all clients at once, each with so many requests: processes, but tasks of one process for asyncio."""
    scene: Scene = {way: Taken() for way in ways}
    count = len(arena.clients)
    for number, way in turns(ways, _half(arena.setting.rounds)):
        wish = {"do": "round", "way": way, "requests": _share(way, requests), "seed": 1_000 * number}
        if way in FEAST:  # which starts processes of its own
            answers = [arena.child(way).ask(**wish, clients=count)]
        elif "async" in way:
            answers = [arena.child(way).ask(**{**wish, "requests": requests * count}, tasks=count)]
        else:
            for seat, client in enumerate(arena.clients):
                client.tell(**{**wish, "seed": 1_000 * number + seat})
            answers = [client.hear() for client in arena.clients]
        _record(scene[way], answers, max(answer["s"] for answer in answers))
        advance()
    return scene


def _record(taken: Taken, answers: Sequence[dict[str, Any]], seconds: float) -> None:
    taken.rounds.append([one for answer in answers for one in answer["ms"]])
    taken.seconds += seconds
    taken.hit_rates += [answer["hit_rate"] for answer in answers if "hit_rate" in answer]


def measure(setting: Setting, say: Callable[[str], None]) -> dict[str, Any]:
    """The whole run."""
    rivals = FEAST if setting.feast else ()
    alone = ("bare", "sync", "sync_out", "bare_async", "async", "cache", *rivals)
    few = max(1, setting.requests // 5)

    def scene(title: str, read: Callable[..., Scene], ways: Sequence[str], requests: int, **more: Any) -> Scene:
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            say(f"{title}: turn {done}")

        return read(arena, ways, requests, advance, **more)

    with ExitStack() as stack:
        arena = Arena(setting, stack, say)
        check(arena.child, alone)
        arena.clients[0].ask(do="warm", way="cache")
        scenes = {
            "alone": scene("one client", one_client, alone, setting.requests),
            "cold": scene("cold CPU caches", one_client, ("bare", "sync", "cache"), few, cold=True),
            "popular": scene("popular items", one_client, ("bare", "sync", "cache_1s"), setting.requests, popular=1.0),
            "clients": scene(
                f"{setting.clients} clients", all_clients, ("bare", "sync", "bare_async", "async", *rivals[:1]), few
            ),
        }
        with arena.written_to() as reached:
            scenes["writer"] = scene("beside a writer", one_client, ("bare", "sync", "async"), setting.requests)
        return report(scenes, conditions(arena, reached[0]))


def conditions(arena: Arena, reached: float) -> dict[str, Any]:
    """What the figures depend on."""
    setting = arena.setting
    return machine(arena.server) | {
        "feast": arena.feast_versions,
        "stored": f"{setting.items:,} items and {setting.users:,} users of {setting.dims} dims, float16",
        "request": f"1 user and {setting.candidates} distinct random candidates, float32 at the end",
        "rounds": setting.rounds,
        "requests_a_round": setting.requests,
        "clients": setting.clients,
        "writes_per_s_wanted": setting.write_rate,
        "writes_per_s_reached": round(reached),
        "fill_s": arena.fill_s,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; print tables, or one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reader", description=(__doc__ or "").partition("\n")[0])
    for size in fields(Setting):
        if size.name != "feast":
            parser.add_argument(f"--{size.name.replace('_', '-')}", type=int, default=size.default)
    parser.add_argument("--no-feast", action="store_false", dest="feast", help="leave Feast out, and do not install it")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of tables")
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json")
    spinner = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*spinner, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        found = measure(Setting(**options), lambda what: progress.update(task, description=what))
    if as_json:
        print(json.dumps(found))
    else:
        show(found, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
