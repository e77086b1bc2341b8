"""Items a second through the lane item-distill, against a bare client: `python -m benchmarks.distill [--json]`.

Starts an Apache Kafka, a Valkey and a vLLM server (or asks the one at `--llm`) and takes, on the same items and from an
empty prefix cache each time, lane · bare client · bare client · lane:

- *lane*: `item-distill` with default settings in this process, from the sending of the items to the confirmed vector
  of the last one; Redis is emptied before;
- *bare client*: the very requests that the first of these runs made, thrown at the server with as many at once.

Then the items that became knowledge are sent again unchanged, and again with another price, and the server's finished
requests are counted. A server that does not let go of its prefix cache is warmed by one more lane run, not counted, so
that all others find the same in it. Keys: items_per_s, bare_items_per_s, ratio, tokens_per_item, prefix_hit_rate (of
the prompt tokens of the lane's requests; null where the server is no vLLM), calls_unchanged, calls_price_only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from benchmarks.llm_load import Counts, Recorder, VllmServer, throw
from freshet.clock import wall_clock
from freshet.records import Item
from local.demo.data import complete_journey
from local.stack.kafka import KafkaServer
from local.stack.llm import LlmServer
from local.stack.valkey import ValkeyServer
from models.encoder.encoder import TextEncoder
from models.encoder.weights import ensure_vllm_env, llm_dir, prepared
from models.llm.backends import Endpoint, connect
from models.llm.client import CompletionRequest, OpenAIClient
from schemas.files import read_items
from streams.kafka.lag import watermarks
from streams.kafka.producer import delivered
from streams.kafka.record import SourceRecord
from streams.lanes.item_distill import NAME
from streams.lanes.table import LANES
from streams.settings import Settings
from streams.wiring.resources import Resources

TIMEOUT_S = 900.0
"""Longer than any call takes on a busy machine: a bare client does not ask again, and a lane would twice."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What every run shares. `warm_up` is one more item; `encoder` None means the prepared weights."""

    settings: Settings
    items: Sequence[Item]
    warm_up: Item
    say: Callable[[str], None]
    encoder: TextEncoder | None = None


@dataclass(slots=True)
class Totals:
    """Seconds of the runs, what the lane's calls cost, and the requests of its first run."""

    lane_s: list[float] = field(default_factory=list)
    bare_s: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    counts: Counts | None = None
    calls: list[CompletionRequest] = field(default_factory=list)
    calls_unchanged: int = 0
    calls_price_only: int = 0


class LaneRun:
    """The lane on topics of its own and an empty Redis, with every call recorded."""

    def __init__(self, bench: Bench, number: int) -> None:
        settings = bench.settings.replace(topic_prefix=f"{bench.settings.topic_prefix}bench{number}.")
        endpoint = Endpoint(settings.llm.url, settings.llm.model, settings.llm.timeout_s, 2 * settings.llm.concurrency)
        self.recorder = Recorder(connect(settings.llm.backend, endpoint))
        self.resources = Resources(settings, llm=self.recorder, encoder=bench.encoder)
        self._warm_up = bench.warm_up
        self._lane = LANES[NAME].build(self.resources)

    async def start(self) -> None:
        """Run, and take one item through everything: connections, grammar, encoder, first poll."""
        await asyncio.to_thread(self.resources.redis.flushall)
        await asyncio.to_thread(
            self.resources.topics.create, {"bootstrap.servers": self.resources.settings.kafka.servers}
        )
        await self._lane.start()
        await self.put([self._warm_up])
        self.recorder.calls.clear()
        self.recorder.tokens = 0

    async def put(self, items: Iterable[Item]) -> float:
        """Send items, and answer the seconds until the last one is through (published, or a dead letter)."""
        topic, codec, producer = self.resources.topics.items, self.resources.codec, self.resources.producer
        records = [(item.item_id.encode(), codec.encode(item, topic)) for item in items]
        failing = asyncio.ensure_future(self._lane.wait_failed())
        goal = self._through() + len(records)
        began = time.perf_counter()
        await delivered([producer.send(topic, key, value) for key, value in records])
        while self._through() < goal and not failing.done():
            await asyncio.sleep(0.01)
        seconds = time.perf_counter() - began
        if failing.done():
            raise failing.result()
        failing.cancel()
        return seconds

    async def stop(self) -> None:
        """End the lane and what it used."""
        await self._lane.stop()
        await self.resources.close()

    def _through(self) -> float:
        samples = (sample for metric in self.resources.metrics.records.collect() for sample in metric.samples)
        return sum(s.value for s in samples if s.name.endswith("_total") and s.labels["lane"] == NAME)

    def known(self) -> set[str]:
        """Ids of the items whose knowledge is in its topic."""
        topic = self.resources.topics.item_knowledge
        config = {
            "bootstrap.servers": self.resources.settings.kafka.servers,
            "group.id": "bench",
            "enable.auto.commit": False,
        }
        consumer = Consumer(config)
        found: set[str] = set()
        try:
            for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
                place = TopicPartition(topic, partition)
                position, end = watermarks(consumer, place, 10)
                consumer.assign([TopicPartition(topic, partition, position)])
                while position < end:
                    for message in consumer.consume(500, timeout=0.2):
                        record = SourceRecord.of_message(message)
                        position = record.offset + 1
                        found.add((record.key or b"").decode())
        finally:
            consumer.close()
        return found


async def measure(bench: Bench) -> dict[str, float | None]:
    """All runs in turn; one JSON-able answer."""
    server = VllmServer(bench.settings.llm.url)
    totals = Totals()
    fair = await server.forget_prefixes()
    if not fair:
        bench.say("the server keeps its prefix cache: one lane run warms it first")
    try:
        for number, kind in enumerate("ABBA" if fair else "aABBA"):
            if kind == "B":
                await _bare(bench, server, totals)
            else:
                last = len(totals.lane_s) == 1
                await _lane(bench, LaneRun(bench, number), server, totals, counted=kind == "A", then_again=last)
    finally:
        await server.aclose()
    return _answer(bench, totals)


async def _lane(
    bench: Bench, run: LaneRun, server: VllmServer, totals: Totals, *, counted: bool, then_again: bool
) -> None:
    await run.start()
    try:
        await server.forget_prefixes()
        before = await server.counts()
        seconds = await run.put(bench.items)
        after = await server.counts()
        dead_letters = len(bench.items) + 1 - len(await asyncio.to_thread(run.known))
        calls = len(run.recorder.calls)
        bench.say(
            f"lane{'' if counted else ' (warming)'}: {len(bench.items) / seconds:.3f} items/s, {calls} calls, at most "
            f"{run.recorder.most_under_way} at once, {dead_letters} dead letters"
        )
        if counted:
            totals.lane_s.append(seconds)
            totals.tokens.append(run.recorder.tokens)
            if before is not None and after is not None:
                totals.counts = (totals.counts or Counts()) + (after - before)
        totals.calls = totals.calls or list(run.recorder.calls)
        if then_again:
            await _again(bench, run, server, totals)
    finally:
        await run.stop()


async def _again(bench: Bench, run: LaneRun, server: VllmServer, totals: Totals) -> None:
    """The same items once more: unchanged, and at another price."""
    known = await asyncio.to_thread(run.known)
    items = [replace(item, event_time=wall_clock()) for item in bench.items if item.item_id in known]
    dearer = [replace(item, price=(item.price or 0.0) + 1.0, event_time=wall_clock()) for item in items]
    totals.calls_unchanged = await _calls(run, server, items)
    totals.calls_price_only = await _calls(run, server, dearer)
    bench.say(f"again: {len(items)} items, {totals.calls_unchanged} calls; dearer: {totals.calls_price_only} calls")


async def _calls(run: LaneRun, server: VllmServer, items: Sequence[Item]) -> int:
    """Requests that sending `items` costs, by the server's count where it has one."""
    before, sent = await server.counts(), len(run.recorder.calls)
    await run.put(items)
    after = await server.counts()
    if before is None or after is None:
        return len(run.recorder.calls) - sent
    return round((after - before).requests)


async def _bare(bench: Bench, server: VllmServer, totals: Totals) -> None:
    settings = bench.settings
    await server.forget_prefixes()
    async with OpenAIClient(
        settings.llm.url, settings.llm.model, timeout_s=settings.llm.timeout_s, max_connections=settings.llm.concurrency
    ) as client:
        seconds = await throw(totals.calls, client, settings.llm.concurrency)
    totals.bare_s.append(seconds)
    bench.say(f"bare: {len(bench.items) / seconds:.3f} items/s, {len(totals.calls)} calls")


def _answer(bench: Bench, totals: Totals) -> dict[str, float | None]:
    lane = len(bench.items) * len(totals.lane_s) / sum(totals.lane_s)
    bare = len(bench.items) * len(totals.bare_s) / sum(totals.bare_s)
    counts = totals.counts
    return {
        "items_per_s": round(lane, 3),
        "bare_items_per_s": round(bare, 3),
        "ratio": round(lane / bare, 3),
        "tokens_per_item": round(sum(totals.tokens) / (len(bench.items) * len(totals.tokens)), 1),
        "prefix_hit_rate": round(counts.hits / counts.queries, 3) if counts and counts.queries else None,
        "calls_unchanged": totals.calls_unchanged,
        "calls_price_only": totals.calls_price_only,
    }


def draw(items: Iterable[Item], count: int, seed: int) -> list[Item]:
    """`count` items of different titles, sent as of now; raises `ValueError` where there are not so many."""
    by_title = {item.title.casefold(): item for item in items if item.title.strip()}
    if len(by_title) < count:
        raise ValueError(f"{len(by_title)} items of different titles, {count} wanted")
    drawn = random.Random(seed).sample(list(by_title.values()), count)
    return [replace(item, event_time=wall_clock()) for item in drawn]


async def _served(url: str) -> str:
    async with OpenAIClient(url) as client:
        return await client.served_model()


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distill", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=40, help="how many; each is distilled four times")
    parser.add_argument("--items-file", type=Path, help="draw them from this catalogue, not from Complete Journey")
    parser.add_argument("--llm", default="", help="base URL of a server that runs already and is asked by nobody else")
    parser.add_argument("--model-dir", type=Path, help="weights for the server; default: those of `freshet up`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = _parsed(arguments)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    settings = Settings.load()
    weights = options.model_dir or llm_dir(settings.home)
    if not options.llm and not (weights / "config.json").exists():
        say(f"no weights in {weights}: run `freshet models prepare`, or name a server with --llm")
        return 2
    if options.model_dir is None and not options.llm and not prepared(weights):
        say(f"{weights} is not complete: run `freshet models prepare`")
        return 2
    items = read_items(options.items_file, default_time=0) if options.items_file else complete_journey()[0]
    drawn = draw(items, options.items + 1, options.seed)
    with ExitStack() as servers:
        kafka = servers.enter_context(KafkaServer(settings.home))
        valkey = servers.enter_context(ValkeyServer())
        url = options.llm
        if not url:
            os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # else it keeps its prefix cache between two runs
            folder = Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="freshet-bench-")))
            llm = LlmServer(ensure_vllm_env(settings.home), weights, folder=folder)
            servers.callback(llm.stop)
            say(f"starting vLLM on {weights.name}")
            url = llm.start()
        settings = settings.replace(kafka=kafka.address, redis=valkey.url, llm=url, llm_model=asyncio.run(_served(url)))
        result = asyncio.run(measure(Bench(settings, drawn[:-1], drawn[-1], say)))
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:20} {value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
