"""`freshet replay`: bring a version up to date with what was there before it.

Owns the options, the checks, progress and how an answer looks. What a replay does is `streams.replay`'s.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import redis
from confluent_kafka import KafkaException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from freshet.connect import connect
from freshet.histories import HistoryStore
from freshet.layout import check_version
from freshet.settings import Settings
from freshet.versions import VersionError, Versions
from streams.components import worker_name
from streams.embedded.state import resolve
from streams.errors import FatalError
from streams.ranges import NoTopic
from streams.replay.jobs import Job, JobError, Jobs, new_job
from streams.replay.plan import Plan, Stage, make_plan, warnings
from streams.replay.request import TOPICS, KeysChanged, Request, parse_time, read_keys
from streams.topics import Topics, existing

if TYPE_CHECKING:
    from streams.replay.run import Progress as Tell


class Time(click.ParamType):
    """See `streams.replay.request.parse_time`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_time(str(value), time.time_ns() // 1_000_000)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.option("--into", "version", default="", metavar="VERSION", help="The version to bring up to date.")
@click.option("--topic", type=click.Choice(TOPICS), default="all", show_default=True, help="What is replayed.")
@click.option(
    "--from", "from_ms", type=Time(), default=0, metavar="TIME", help="Records as young as this; default all."
)
@click.option("--to", "to_ms", type=Time(), default=0, metavar="TIME", help="Records older than this; default all.")
@click.option("--keys", "keys_file", type=click.Path(exists=True, dir_okay=False), help="File of ids, one a line.")
@click.option("--knowledge", is_flag=True, help="Distil items too; what is known already costs no LLM call.")
@click.option("--rate", type=click.FloatRange(min=0), default=0.0, help="Records or users a second; 0: no limit.")
@click.option("--execute", is_flag=True, help="Do it; without it, only say what would be done.")
@click.option("--force", is_flag=True, help="Also into the active version, which rankers read.")
@click.option("--resume", "job_id", default="", metavar="JOB", help="Go on with a replay that ended too early.")
@click.option("--jobs", "list_jobs", is_flag=True, help="List the replays of the last 30 days.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON, without progress.")
def replay(
    version: str, topic: str, from_ms: int, to_ms: int, keys_file: str | None, knowledge: bool, rate: float,
    execute: bool, force: bool, job_id: str, list_jobs: bool, as_json: bool,
) -> None:  # fmt: skip
    """Replay items and users into a version, while its workers and those of the others go on.

    Items go through the encoder (and, with --knowledge, the distiller) into VERSION's topic, users with a history, or
    with an event between --from and --to, become due for VERSION's user-refresh worker. TIME is 2026-11-25T04:00 (UTC),
    epoch milliseconds, or how long ago: 90s, 30m, 12h, 7d. Newer features are never replaced by older ones.

    Exit code 0: done; 1: refused, failed or stopped, and what was done stays done; 2: wrong options.
    """
    if sum(map(bool, (version, job_id, list_jobs))) != 1:
        raise click.UsageError("give one of --into VERSION, --resume JOB and --jobs")
    with _told(as_json):
        if list_jobs:
            _list(as_json)
            return
        if job_id:
            _resume(job_id, force, as_json)
            return
        try:
            check_version(version)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--into") from error
        if to_ms and to_ms <= from_ms:
            raise click.BadParameter("it is not after --from", param_hint="--to")
        _, digest = read_keys(keys_file or "")
        file = str(Path(keys_file).resolve()) if keys_file else ""
        request = Request(version, topic, from_ms, to_ms, file, digest, knowledge, rate)
        _begin(request, execute, force, as_json)


@contextmanager
def _told(as_json: bool) -> Iterator[None]:
    """Turn what goes wrong into one line and exit code 1."""
    try:
        yield
    except (VersionError, JobError, NoTopic, KeysChanged, FatalError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    except redis.RedisError as error:
        raise click.ClickException(
            f"Redis does not answer ({error}); is FRESHET_REDIS right, or `freshet up` running?"
        ) from error
    except KafkaException as error:
        raise click.ClickException(f"Kafka: {error.args[0].str()}") from error


def _begin(request: Request, execute: bool, force: bool, as_json: bool) -> None:
    settings = _settings(request)
    keys, _ = read_keys(request.keys_file)
    with connect(settings.redis, socket_timeout=30, socket_connect_timeout=5) as client:
        versions = Versions(client, settings.key_prefix)
        refusal = _refusal(settings, versions, request.version, force)
        with _bar(as_json, "Looking") as tell:
            store = HistoryStore(client, settings.key_prefix)
            plan = make_plan(settings, request, keys, store, lambda n: tell("users", n))
        answer = {"into": request.version, "active": versions.active(), "execute": execute, **_plan_row(plan)}
        answer["warnings"] = warnings(plan, versions)
        if refusal:
            answer["refused"] = refusal
        if not execute or refusal:
            _show(answer, as_json)
            if refusal and execute:
                raise click.ClickException(refusal)
            return
        if not as_json:
            _show(answer, False)
        job = new_job(plan, worker_name(), time.time_ns() // 1_000_000)
        Jobs(client, settings.key_prefix).save(job)
    _run(settings, job, keys, as_json)


def _resume(job_id: str, force: bool, as_json: bool) -> None:
    settings = resolve(Settings.load(), "kafka", "redis")
    with connect(settings.redis, socket_timeout=30, socket_connect_timeout=5) as client:
        jobs = Jobs(client, settings.key_prefix)
        job = jobs.take_over(job_id, worker_name(), time.time_ns() // 1_000_000)
        settings = _settings(job.plan.request)
        keys, _ = read_keys(job.plan.request.keys_file, job.plan.request.keys_digest)
        if refusal := _refusal(settings, Versions(client, settings.key_prefix), settings.version, force):
            raise click.ClickException(refusal)
        jobs.save(job)
    _run(settings, job, keys, as_json)


def _settings(request: Request) -> Settings:
    """Those of a worker of the version that is replayed into."""
    needed = ("kafka", "redis", "llm") if request.knowledge else ("kafka", "redis")
    return replace(resolve(Settings.load(), *needed), version=request.version)


def _refusal(settings: Settings, versions: Versions, version: str, force: bool) -> str:
    """Why this version must not be replayed into; empty where it may."""
    seen = versions.overview()
    state = seen.state(version)
    if state == "unknown":
        return f"no version is called {version!r}; `freshet versions create {version}` makes it"
    if state == "retiring":
        return f"version {version} is being deleted"
    if state == "active" and not force:
        return f"rankers read {version} now; --force replays into it all the same"
    wanted = [topic.name for topic in Topics(settings).all()]
    found = existing({"bootstrap.servers": settings.kafka}, wanted)
    if missing := [name for name in wanted if name not in found]:
        return f"no topic {', '.join(missing)}; `FRESHET_VERSION={version} freshet topics create` makes what is missing"
    return ""


def _run(settings: Settings, job: Job, keys: frozenset[bytes], as_json: bool) -> None:
    resume = f"freshet replay --resume {job.id}"
    click.echo(f"Replay {job.id}. If it ends too early: {resume}", err=True)
    os.environ["OMP_NUM_THREADS"] = str(settings.torch_threads)
    # Heavy from here on.
    from streams import logs
    from streams.lanes.base import Context
    from streams.replay.run import Run

    logs.configure(settings.log_level if as_json else "WARNING")

    async def work(tell: Tell) -> Job:
        context = Context(settings)
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        run = Run(context, job, Jobs(context.redis, settings.key_prefix), keys, tell)
        try:
            return await run.run(stop)
        finally:
            await context.close()

    began = time.monotonic()
    with _stage_bars(job.plan, as_json) as tell:
        try:
            ended = asyncio.run(work(tell))
        except Exception:
            click.echo(f"It failed; what was done stays done. Go on: {resume}", err=True)
            raise
    _conclude(ended, time.monotonic() - began, as_json)


def _conclude(job: Job, seconds: float, as_json: bool) -> None:
    version = job.plan.request.version
    if as_json:
        click.echo(json.dumps({**_job_row(job), "seconds": round(seconds, 3)}))
    else:
        for stage in job.plan.stages:
            what = "records" if stage.ranges else "users"
            click.echo(f"{stage.name}: {job.done.get(stage.name, 0):,} {what} done")
        if job.state == "done":
            click.echo(f"Done in {seconds:.1f} s. Next: freshet versions status {version}, then activate {version}")
        else:
            click.echo(f"Stopped after {seconds:.1f} s. Next: freshet replay --resume {job.id}")
    if job.state != "done":
        sys.exit(1)


def _list(as_json: bool) -> None:
    settings = resolve(Settings.load(), "redis")
    with connect(settings.redis, socket_timeout=30, socket_connect_timeout=5) as client:
        jobs = Jobs(client, settings.key_prefix).all(time.time_ns() // 1_000_000)
    if as_json:
        click.echo(json.dumps({"jobs": [_job_row(job) for job in jobs]}))
        return
    if not jobs:
        click.echo("No replay yet. Next: freshet replay --into VERSION")
        return
    table = Table("Job", "Into", "State", "Last heard of (UTC)", "Done", box=None, pad_edge=False, header_style="dim")
    for job in jobs:
        done = ", ".join(f"{s.name} {job.done.get(s.name, 0):,} of {s.total:,}" for s in job.plan.stages)
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(job.saved_ms / 1_000))
        table.add_row(job.id, job.plan.request.version, job.state, when, done)
    Console().print(table)


def _job_row(job: Job) -> dict[str, Any]:
    return {
        "job": job.id,
        "into": job.plan.request.version,
        "state": job.state,
        "owner": job.owner,
        "begun_ms": job.begun_ms,
        "saved_ms": job.saved_ms,
        "stages": [
            {"stage": s.name, "total": s.total, "done": job.done.get(s.name, 0), "finished": s.name in job.finished}
            for s in job.plan.stages
        ],
    }


def _plan_row(plan: Plan) -> dict[str, Any]:
    return {
        "request": asdict(plan.request),
        "stages": [
            {
                "stage": stage.name,
                "topic": stage.ranges[0].topic if stage.ranges else None,
                "partitions": [
                    {"partition": r.partition, "first": r.first, "end": r.end, "records": len(r), "clipped": r.clipped}
                    for r in stage.ranges
                ],
                "total": stage.total,
            }
            for stage in plan.stages
        ],
    }


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("Stage", "Partition", "Offsets", "At most", ""):
        table.add_column(title, justify="right" if title in ("Partition", "At most") else "left")
    for stage in answer["stages"]:
        name = stage["stage"]
        for row in stage["partitions"]:
            note = "clipped by retention" if row["clipped"] else ""
            offsets = f"{row['first']:,} up to {row['end']:,}"
            table.add_row(name, str(row["partition"]), offsets, f"{row['records']:,}", note)
            name = ""
        what = "records" if stage["partitions"] else "users"
        table.add_row(name, "", "", f"{stage['total']:,}", what, style="bold")
    Console(highlight=False).print(table)
    for line in answer["warnings"]:
        click.echo(f"Warning: {line}", err=True)
    if answer["execute"]:
        return
    if refusal := answer.get("refused"):
        click.echo(f"It would be refused: {refusal}")
    else:
        click.echo(f"Into {answer['into']}; nothing was changed. Next: the same with --execute")


@contextmanager
def _bar(quiet: bool, what: str) -> Iterator[Callable[[str, int], None]]:
    console = Console(stderr=True)
    columns = (TextColumn(f"{what}: {{task.description}} {{task.completed:,.0f}}"),)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=None)

        def tell(name: str, count: int) -> None:
            progress.update(task, description=name, advance=count)

        yield tell


@contextmanager
def _stage_bars(plan: Plan, quiet: bool) -> Iterator[Tell]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        tasks = {stage.name: progress.add_task(stage.name, total=stage.total) for stage in plan.stages}

        def tell(stage: Stage, behind: int) -> None:
            progress.update(tasks[stage.name], completed=behind)

        yield tell
