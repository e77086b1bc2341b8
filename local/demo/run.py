"""The demo from start to end: stack, training, worker, a real log played live, and what came of it.

Owns the order of the phases and that everything started is ended, also on Ctrl-C and on failure.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from rich.console import Console
from rich.live import Live

from freshet import FeatureReader, ItemTier, UserTier
from freshet.clock import wall_clock
from freshet.records import ItemFeatures
from local.demo.data import DemoData, load, recent, split
from local.demo.feed import DemoFeed, shifted_to_now
from local.demo.steps import Steps
from local.demo.summary import Counts, Summary
from local.demo.view import render
from local.demo.watch import DemoWatch
from local.stack.process import HOST, ChildProcess, ServiceError, free_port, log_tail
from local.stack.stack import Stack, prepare
from models.encoder.weights import prepare_encoder
from models.reasoner import checkpoint
from models.reasoner.checkpoint import Checkpoint
from models.reasoner.training.config import TrainingConfig
from schemas.codec import Codec
from store.histories import HistoryStore
from store.refresh_queue import RefreshQueue
from streams.jobs.bulk_send import SendCounts, keyed_events, send
from streams.jobs.training import train_on
from streams.kafka.producer import kafka_config
from streams.kafka.topics import Topics
from streams.lanes.table import LANES, asking
from streams.settings import Settings

KNOWN_SHARE = 0.7
LOOK_S = 1.0


class DemoFailed(RuntimeError):
    """The demo could not show what it is there to show; the message says which part fell short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """What is played, how fast, and when it is enough.

    `items` and `events`: the user's own files, else Complete Journey. `rate` in events a second for `seconds`;
    afterwards the demo waits up to `drain_s` for at least `knowledge` distilled items and for empty queues.
    """

    items: Path | None = None
    events: Path | None = None
    rate: float = 1_200.0
    seconds: float = 80.0
    drain_s: float = 120.0
    knowledge: int = 30
    refresh_interval_s: float = 30.0
    train_minutes: float = 1.0
    max_items: int = 10_000
    retrain: bool = False
    seed: int = 0


def run(config: DemoConfig, settings: Settings, console: Console) -> Counts:
    """Play the whole demo on `console`; answers what Redis held at the end.

    Raises `ServiceError` or `models.encoder.weights.WeightsError` where the stack cannot be had, `NotEnoughData` or
    `schemas.files.FileError` where the log is unfit, `DemoFailed` where a part fell short.
    """
    steps = Steps(console)
    with ExitStack() as stack:
        with steps.step("Reading the log") as step:
            name, items, events = load(config.items, config.events)
            data = split(
                name, items, events, known_share=KNOWN_SHARE, stream_rows=max(100, int(config.rate * config.seconds))
            )
            step.say(f"{events.num_rows:,} events of {data.users:,} users, {len(data.new):,} items yet to appear")
        with steps.step("Fetching Kafka, vLLM and the weights, unless they are here") as step:
            prepare_encoder(settings.home, step.report)
            prepare(settings, report=step.report)
        with steps.step("Starting Kafka and Valkey") as step:
            played = settings.replace(
                topic_prefix="demo.", key_prefix="demo", refresh_interval_s=config.refresh_interval_s
            )
            services = stack.enter_context(Stack(played))
            settings = services.settings
            Topics(settings).create(kafka_config(settings))
            step.say(
                f"Kafka at {settings.kafka.servers}, Redis at {settings.redis.url}; the language model loads meanwhile"
            )
        trained, settings = _reasoner(steps, config, settings, data)
        deployed = stack.enter_context(_deployed(steps, settings, data))
        _warm_up(steps, settings, data, trained, deployed)
        with steps.step("Waiting for the language model"):
            services.wait("llm")
        _play(config, settings, data, deployed, console)
        return _conclude(settings, data, trained, deployed.watch, console)


def _reasoner(steps: Steps, config: DemoConfig, settings: Settings, data: DemoData) -> tuple[Checkpoint, Settings]:
    """A checkpoint for exactly this history and configuration: the one of last time, or a new one."""
    training = TrainingConfig(minutes=config.train_minutes, max_items=config.max_items, seed=config.seed)
    identity = hashlib.sha256(repr((data.name, data.history.num_rows, len(data.known), training)).encode())
    folder = settings.home / "demo" / f"reasoner-{identity.hexdigest()[:12]}"
    with steps.step("Training the block-diffusion reasoner") as step:
        if checkpoint.is_checkpoint(folder) and not config.retrain:
            found = checkpoint.load(folder)
            step.say(f"using the one of last time ({_quality(found)}); --retrain trains anew")
        else:
            found = train_on(
                data.history,
                data.known,
                settings,
                training,
                folder,
                encoded=lambda done, total: step.report("encoding item texts", done, total),
                trained=lambda p: step.report(f"step {p.step}, loss {p.loss:.2f}", p.share, 1.0),
            )
            step.say(_quality(found))
    return found, settings.replace(checkpoint=str(folder))


def _quality(trained: Checkpoint) -> str:
    metrics = trained.metrics
    return (
        f"{metrics['items']:,} items, {metrics['train_events']:,} events; next new item HR@10 {metrics['hr10']:.3f}, "
        f"popularity {metrics['popularity_hr10']:.3f}"
    )


@dataclass(frozen=True, slots=True)
class Deployment:
    """The running worker, and who watches what it does."""

    worker: ChildProcess
    watch: DemoWatch

    def check(self) -> None:
        """Raise `ServiceError` where the worker has ended by itself."""
        if not self.worker.running:
            log = self.worker.log
            raise ServiceError(f"the worker ended by itself; the end of {log}:\n{log_tail(log)}")


@contextmanager
def _deployed(steps: Steps, settings: Settings, data: DemoData) -> Iterator[Deployment]:
    """A worker with all lanes in a process of its own, as an operator would run it, and somebody watching."""
    port = free_port()
    log = settings.home / "demo" / "worker.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "cli", "worker", "--metrics-port", str(port)]
    worker = ChildProcess("the worker", argv, log=log, env=environment(settings), grace_s=20.0)
    try:
        with steps.step("Starting a worker with all lanes") as step:
            worker.start()
            worker.wait_ready(lambda: "worker runs" in log.read_text(), timeout_s=120.0)
            step.say(f"log in {log}")
        watch = DemoWatch(data, settings, f"http://{HOST}:{port}/metrics")
        try:
            yield Deployment(worker, watch)
        finally:
            watch.close()
    finally:
        worker.stop()


def environment(settings: Settings) -> dict[str, str]:
    """An environment that gives a child process exactly these settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FRESHET_")}
    kept = {name: os.environ[name] for name in ("FRESHET_VLLM_PYTHON",) if name in os.environ}
    return {**inherited, **kept, **settings.environment()}


def _warm_up(steps: Steps, settings: Settings, data: DemoData, trained: Checkpoint, deployed: Deployment) -> None:
    """What a platform has before the first new item: vectors of its known items, and its users' newest events."""
    topics, codec = Topics(settings), Codec()
    now = wall_clock()
    with steps.step("Loading the known items and the users' histories") as step:
        vectors = trained.vectors.astype("<f2")
        known = (
            ItemFeatures(item_id, settings.version, int(ItemTier.TEXT), now, now, vectors.shape[1], vector.tobytes())
            for item_id, vector in zip(trained.item_ids, vectors, strict=True)
        )
        records = ((one.item_id.encode(), codec.encode(one, topics.item_features)) for one in known)
        _confirmed(send(settings, topics.item_features, records))
        history = shifted_to_now(recent(data.history, settings.history.length), now)
        events = _confirmed(send(settings, topics.user_events, keyed_events(history, codec, topics.user_events)))
        quick = LANES.keys() - set(asking("llm"))
        while pending := sum(lag for lane, lag in deployed.watch.lag().items() if lane in quick):
            deployed.check()
            step.report("reading them", max(0, history.num_rows - pending), history.num_rows)
            time.sleep(0.2)
        with redis.Redis.from_url(settings.redis.url) as client:
            due = RefreshQueue(client, settings.version, settings.key_prefix)
            while pending := due.size() + due.leased():
                deployed.check()
                step.report("inferring for the users they make due", max(0, data.users - pending), data.users)
                time.sleep(0.2)
        step.say(f"{len(trained.item_ids):,} items, {events.confirmed:,} events")


def _confirmed(tally: SendCounts) -> SendCounts:
    if tally.failed:
        raise DemoFailed(f"Kafka did not confirm {tally.failed:,} records: {'; '.join(tally.errors)}")
    return tally


def _play(config: DemoConfig, settings: Settings, data: DemoData, deployed: Deployment, console: Console) -> None:
    """Play the log under a live view, then wait until enough has come through."""
    feed, watch = DemoFeed(data, settings, Codec(), config.rate), deployed.watch
    watch.begin()
    feed.start()
    deadline = None
    try:
        with Live(console=console, auto_refresh=False, transient=not console.is_terminal) as live:
            while True:
                looked = time.monotonic()
                phase = "playing the log" if not feed.done else "emptying the queues"
                now = watch.snapshot(phase, feed)
                live.update(render(now), refresh=True)
                deployed.check()
                if not feed.running:
                    deadline = deadline or looked + config.drain_s
                    # The LLM's backlog of thousands stays: at an item or two a second it would take an hour.
                    slow = asking("llm")
                    behind = sum(lag for lane, lag in now.lag.items() if lane not in slow) if now.lag else 1
                    if (behind == 0 and now.items_knowledge >= config.knowledge) or looked > deadline:
                        break
                time.sleep(max(0.0, LOOK_S - (time.monotonic() - looked)))
    finally:
        feed.stop()
    if not console.is_terminal:
        console.print(render(now))


def _conclude(settings: Settings, data: DemoData, trained: Checkpoint, watch: DemoWatch, console: Console) -> Counts:
    """Count in Redis through `FeatureReader`, print the closing pages; raises `DemoFailed` where a part is missing."""
    seen = watch.look()
    with (
        redis.Redis.from_url(settings.redis.url) as client,
        FeatureReader(
            settings.redis.url, settings.key_prefix, dims=settings.vectors.dims, timeout_s=30.0, raise_errors=True
        ) as reader,
    ):
        counts = Counts(
            items_text=seen.items(ItemTier.TEXT),
            items_knowledge=seen.items(ItemTier.KNOWLEDGE),
            users_diffusion=seen.users(UserTier.DIFFUSION),
            version=reader.items([]).version,
        )
        histories = HistoryStore(client, settings.key_prefix, length=settings.history.length)
        Summary(data, reader, histories, trained.item_ids, seen).show(console, counts)
    if not counts.complete:
        raise DemoFailed(f"not everything came through: {counts}; see the worker's log in {settings.home / 'demo'}")
    return counts
