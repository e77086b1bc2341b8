"""`freshet replay`: bring a version up to date with what was there before it.

Owns the options and the checks. What a replay does is `streams.jobs.replay`'s; how an answer looks is
`cli.replay_view`'s.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import replay_view as page
from cli.session import OperatorSession, Time, counted, operator_session, version_name
from freshet.clock import wall_clock
from local.stack.state import resolve
from store.histories import HistoryStore
from store.versions import Versions
from streams.errors import FatalError
from streams.identity import worker_name
from streams.jobs.replay.estimate import Estimate, estimate
from streams.jobs.replay.jobs import Job, JobError, Jobs, new_job
from streams.jobs.replay.plan import ReplayPlan, make_plan, warnings
from streams.jobs.replay.request import TOPICS, KeysChanged, Request, read_keys
from streams.kafka.producer import kafka_config
from streams.kafka.ranges import NoTopic
from streams.kafka.topics import Topics, existing
from streams.lanes.table import asking
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.jobs.replay.replayer import Progress as Tell

REFUSALS = (JobError, NoTopic, KeysChanged, FatalError, FileNotFoundError)


@click.command()
@click.option(
    "--into", "version", default="", metavar="VERSION", callback=version_name, help="The version to bring up to date."
)
@click.option("--topic", type=click.Choice(TOPICS), default="all", show_default=True, help="What is replayed.")
@click.option(
    "--from", "from_ms", type=Time(), default=0, metavar="TIME", help="Records at or after this time; default all."
)
@click.option("--to", "to_ms", type=Time(), default=0, metavar="TIME", help="Records before this time; default all.")
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
    if list_jobs:
        with operator_session() as session:
            page.show_jobs(Jobs(session.client, session.prefix).all(wall_clock()), as_json)
        return
    if to_ms and to_ms <= from_ms:
        raise click.BadParameter("it is not after --from", param_hint="--to")
    with operator_session("kafka", *(("llm",) if knowledge else ()), refusals=REFUSALS) as session:
        if job_id:
            _resume(session, job_id, force, as_json)
            return
        _, digest = read_keys(keys_file or "")
        file = str(Path(keys_file).resolve()) if keys_file else ""
        request = Request(version, topic, from_ms, to_ms, file, digest, knowledge, rate)
        _begin(session, request, execute, force, as_json)


def _begin(session: OperatorSession, request: Request, execute: bool, force: bool, as_json: bool) -> None:
    settings = session.settings.replace(version=request.version)
    keys, _ = read_keys(request.keys_file)
    refusal = _refusal(settings, session.versions, request.version, force)
    with counted("Looking for users", as_json) as advance:
        plan = make_plan(settings, request, keys, HistoryStore(session.client, session.prefix), advance)
    answer = {"into": request.version, "active": session.versions.active(), "execute": execute, **page.plan_row(plan)}
    answer["warnings"] = warnings(plan, session.versions)
    answer["estimate"] = _estimate(session, settings, plan)
    if refusal:
        answer["refused"] = refusal
    if not (as_json and execute and not refusal):  # where a machine is told what became of it, once
        page.show_plan(answer, as_json)
    if not execute:
        return
    if refusal:
        raise click.ClickException(refusal)
    job = new_job(plan, worker_name(), wall_clock())
    Jobs(session.client, session.prefix).save(job)
    _run(settings, job, keys, as_json)


def _estimate(session: OperatorSession, settings: Settings, plan: ReplayPlan) -> Estimate | None:
    """What asking the model would cost, where the replay asks it."""
    from streams.wiring.resources import Resources

    ranges = [one for stage in plan.stages if stage.name in asking("llm") for one in stage.ranges]
    if not ranges:
        return None
    codec = Resources(settings).codec
    return estimate(settings, session.client, codec, settings.version, session.versions.names(), ranges)


def _resume(session: OperatorSession, job_id: str, force: bool, as_json: bool) -> None:
    jobs = Jobs(session.client, session.prefix)
    job = jobs.take_over(job_id, worker_name(), wall_clock())
    request = job.plan.request
    settings = session.settings.replace(version=request.version)
    if request.knowledge:
        settings = resolve(settings, "llm")
    keys, _ = read_keys(request.keys_file, request.keys_digest)
    if refusal := _refusal(settings, session.versions, settings.version, force):
        raise click.ClickException(refusal)
    jobs.save(job)
    _run(settings, job, keys, as_json)


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
    found = existing(kafka_config(settings), wanted)
    if missing := [name for name in wanted if name not in found]:
        return f"no topic {', '.join(missing)}; `FRESHET_VERSION={version} freshet topics create` makes what is missing"
    return ""


def _run(settings: Settings, job: Job, keys: frozenset[bytes], as_json: bool) -> None:
    resume = f"freshet replay --resume {job.id}"
    click.echo(f"Replay {job.id}. If it ends too early: {resume}", err=True)
    os.environ["OMP_NUM_THREADS"] = str(settings.worker.threads)
    # Heavy from here on.
    from streams import logs
    from streams.jobs.replay.replayer import Replayer
    from streams.wiring.resources import Resources

    logs.configure(settings.log_level if as_json else "WARNING")

    async def work(tell: Tell) -> Job:
        resources = Resources(settings, member=True)
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        replayer = Replayer(resources, job, Jobs(resources.redis, settings.key_prefix), keys, tell)
        try:
            return await replayer.run(stop)
        finally:
            await resources.close()

    began = time.monotonic()
    with page.stage_bars(job.plan, as_json) as tell:
        try:
            ended = asyncio.run(work(tell))
        except Exception:
            click.echo(f"It failed; what was done stays done. Go on: {resume}", err=True)
            raise
    page.show_ended(ended, time.monotonic() - began, as_json)
    if ended.state != "done":
        sys.exit(1)
