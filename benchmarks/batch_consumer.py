"""How many events a second the user-events lane brings into Redis: `python -m benchmarks.batch_consumer [--json]`.

Starts an Apache Kafka and a Valkey of its own, sends Complete Journey's events in time order (not timed), and takes the
median of several runs, taken in turn:

- *lane*: `UserEventsLane` with default settings in this process, from its start until its committed offset is the end;
- *bare loop*: the same consumer settings and batch size, decoded to Arrow, nothing written;
- *consume only*: the same without decoding.

After each lane run every user's history is compared with what was sent: the newest 200 events, each in its place. One
more run, not counted, keeps all events, and none may be missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import redis
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from freshet.records import UserEvent
from local.demo.data import complete_journey
from local.stack.kafka import KafkaServer
from local.stack.valkey import ValkeyServer
from schemas.codec import Codec
from schemas.columns import EventColumns
from store.histories import History, HistoryStore
from streams.consumers.batch_consumer import BATCH_RECORDS, LINGER_S, consumer_config
from streams.kafka.producer import producer_config
from streams.kafka.topics import Topics
from streams.lanes.table import LANES
from streams.lanes.user_events import NAME
from streams.settings import Settings
from streams.wiring.resources import Resources

KEEP_ALL = 10_000
"""Longer than any user's log: no event may fall off the end."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What every run shares: where the servers are, and what was sent."""

    settings: Settings
    events: pa.Table
    kafka_pid: int
    say: Callable[[str], None]

    def __len__(self) -> int:
        return int(self.events.num_rows)


def send(bench: Bench) -> None:
    """Produce every event, keyed by user, in the order of the table."""
    codec, topic = Codec(), Topics(bench.settings).user_events
    producer = Producer(producer_config(bench.settings, **{"queue.buffering.max.messages": 1_000_000}))
    for start in range(0, len(bench), 100_000):
        for row in bench.events.slice(start, 100_000).to_pylist():
            producer.produce(topic, key=row["user_id"].encode(), value=codec.encode(UserEvent(**row)))
        producer.flush()
        bench.say(f"sent {min(len(bench), start + 100_000):,} events")


async def run_lane(bench: Bench, history_length: int) -> tuple[float, dict[str, float]]:
    """Seconds from the lane's start to its last commit, and microseconds of CPU an event by process."""
    settings = bench.settings.replace(history_length=history_length)
    _forget_group(settings)
    resources = Resources(settings)
    resources.redis.flushall()
    lane = LANES[NAME].build(resources)
    failed = None
    with _cpu(bench, resources.redis) as cpu:
        started = time.perf_counter()
        await lane.start()
        failing = asyncio.ensure_future(lane.wait_failed())
        while _committed(resources) < len(bench) and not failing.done():
            await asyncio.sleep(0.01)
        seconds = time.perf_counter() - started
    failed = failing.result() if failing.done() else None
    failing.cancel()
    await lane.stop()
    await resources.close()
    if failed is not None:
        raise failed
    return seconds, cpu


def _committed(resources: Resources) -> float:
    """Sum of the offsets the broker has confirmed as committed."""
    return sum(sample.value for metric in resources.metrics.position.collect() for sample in metric.samples)


def _forget_group(settings: Settings) -> None:
    """Let the next run begin at offset 0 with the lane's own group."""
    group = LANES[NAME].subscription(settings).group
    with AdminClient({"bootstrap.servers": settings.kafka.servers}) as admin:
        if any(each.group_id == group for each in admin.list_consumer_groups().result().valid):
            admin.delete_consumer_groups([group])[group].result()


def run_bare(bench: Bench, name: str, *, decode: bool) -> float:
    """Seconds of a loop that does nothing but consume, and decode where told so."""
    columns = EventColumns(Codec())
    consumer = Consumer(consumer_config(bench.settings, name))
    started = time.perf_counter()
    consumer.subscribe([Topics(bench.settings).user_events])
    seen = 0
    while seen < len(bench):
        messages = consumer.consume(BATCH_RECORDS, LINGER_S)
        if decode and messages:
            columns.decode([value for message in messages if (value := message.value()) is not None])
        seen += len(messages)
    seconds = time.perf_counter() - started
    consumer.close()
    return seconds


def wrong_histories(bench: Bench, history_length: int) -> tuple[int, int]:
    """Users whose stored history is not exactly the newest events sent, and events missing over all users."""
    with redis.Redis.from_url(bench.settings.redis.url) as client:
        store = HistoryStore(client, bench.settings.key_prefix)
        expected = list(newest(bench.events, history_length))
        wrong = missing = 0
        for start in range(0, len(expected), 100):
            part = expected[start : start + 100]
            for want, have in zip(part, store.load([one.user_id for one in part]), strict=True):
                wrong += want != have
                missing += max(0, len(want.item_ids) - len(have.item_ids))
        extra = sum(1 for _ in client.scan_iter(f"{bench.settings.key_prefix}:h:*", count=1000)) - len(expected)
        return wrong + abs(extra), missing


def newest(events: pa.Table, length: int) -> Iterator[History]:
    """Each user's newest events by time; of one time, those sent last (a partition keeps the order of sending)."""
    users = events["user_id"].combine_chunks().dictionary_encode()
    names, of_row = users.dictionary.to_pylist(), users.indices.to_numpy()
    times = events["event_time"].to_numpy()
    order = np.lexsort((np.arange(len(times)), times, of_row))
    items = events["item_id"].combine_chunks().take(pa.array(order)).to_pylist()
    types = events["event_type"].combine_chunks().take(pa.array(order)).to_pylist()
    sorted_times = times[order].tolist()
    ends = np.cumsum(np.bincount(of_row, minlength=len(names))).tolist()
    for user, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        first = max(start, end - length)
        yield History(names[user], *(tuple(column[first:end]) for column in (items, types, sorted_times)))


@contextmanager
def _cpu(bench: Bench, client: redis.Redis) -> Iterator[dict[str, float]]:
    """CPU microseconds an event of worker, broker and Redis, and how many cores everybody else took meanwhile."""

    def now() -> tuple[float, float, float, float, float]:
        redis_cpu = client.info("cpu")
        return (
            time.process_time(),
            _process_seconds(bench.kafka_pid),
            redis_cpu["used_cpu_user"] + redis_cpu["used_cpu_sys"],
            _machine_seconds(),
            time.monotonic(),
        )

    used: dict[str, float] = {}
    before = now()
    yield used
    worker, broker, server, machine, elapsed = (b - a for a, b in zip(before, now(), strict=True))
    used.update(
        worker_cpu_us=round(1e6 * worker / len(bench), 2),
        kafka_cpu_us=round(1e6 * broker / len(bench), 2),
        redis_cpu_us=round(1e6 * server / len(bench), 2),
        cores_used_by_others=round(max(0.0, machine - worker - broker - server) / elapsed, 2),
    )


def _process_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _machine_seconds() -> float:
    """Busy seconds of all cores together."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def measure(bench: Bench, runs: int) -> dict[str, object]:
    """All runs in turn; one JSON-able answer."""
    lane, bare, consume, cpus, wrong, missing = [], [], [], [], 0, 0
    for n in range(runs):
        seconds, cpu = asyncio.run(run_lane(bench, bench.settings.history.length))
        lane.append(len(bench) / seconds)
        cpus.append(cpu)
        off, gone = wrong_histories(bench, bench.settings.history.length)
        wrong, missing = wrong + off, missing + gone
        bare.append(len(bench) / run_bare(bench, f"bare-{n}", decode=True))
        consume.append(len(bench) / run_bare(bench, f"consume-{n}", decode=False))
        bench.say(
            f"run {n + 1}: lane {lane[-1]:,.0f}/s · bare {bare[-1]:,.0f}/s · consume {consume[-1]:,.0f}/s · {cpu}"
        )
    asyncio.run(run_lane(bench, KEEP_ALL))
    off, gone = wrong_histories(bench, KEEP_ALL)
    bench.say(f"kept all: {gone} missing")
    return {
        "events_per_s": round(statistics.median(lane)),
        "bare_loop_events_per_s": round(statistics.median(bare)),
        "ratio_to_bare": round(statistics.median(lane) / statistics.median(bare), 3),
        "consume_only_events_per_s": round(statistics.median(consume)),
        "events": len(bench),
        "users": len(bench.events["user_id"].unique()),
        "wrong_histories": wrong + off,
        "missing_events": missing + gone,
        "runs": runs,
        "events_per_s_of_each_run": [round(rate) for rate in lane],
        "batch": BATCH_RECORDS,
        "history_length": bench.settings.history.length,
        "partitions": bench.settings.kafka.partitions,
        "cores": len(os.sched_getaffinity(0)),
        **{name: round(statistics.median(cpu[name] for cpu in cpus), 2) for name in cpus[0]},
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch_consumer", description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    options = parser.parse_args(arguments)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    settings = Settings.load()
    with ExitStack() as servers:
        kafka = servers.enter_context(KafkaServer(settings.home))
        valkey = servers.enter_context(ValkeyServer())
        settings = settings.replace(kafka=kafka.address, redis=valkey.url)
        Topics(settings).create({"bootstrap.servers": settings.kafka.servers})
        assert kafka.child is not None
        events = complete_journey()[1].slice(0, options.events)
        bench = Bench(settings, events, kafka.child.pid, say)
        send(bench)
        result = measure(bench, options.runs)
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:28} {value}")
    return 0 if not result["wrong_histories"] and not result["missing_events"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
