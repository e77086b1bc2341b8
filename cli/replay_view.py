"""How a replay looks: what it would do, how far it is, and what became of it.

Owns presentation only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cli.session import bars
from streams.jobs.replay.estimate import Estimate
from streams.jobs.replay.jobs import Job
from streams.jobs.replay.plan import ReplayPlan, Stage


def plan_row(plan: ReplayPlan) -> dict[str, Any]:
    """The facts of a plan, JSON."""
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


def job_row(job: Job) -> dict[str, Any]:
    """The facts of a job, JSON."""
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


def show_plan(answer: dict[str, Any], as_json: bool) -> None:
    """Ranges and warnings, and for a dry run what comes next."""
    found: Estimate | None = answer.pop("estimate")
    if as_json:
        click.echo(json.dumps({**answer, "estimate": None if found is None else estimate_row(found)}))
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
    if found is not None:
        click.echo(told_estimate(found))
    for line in answer["warnings"]:
        click.echo(f"Warning: {line}", err=True)
    if answer["execute"]:
        return
    if refusal := answer.get("refused"):
        click.echo(f"It would be refused: {refusal}")
    else:
        click.echo(f"Into {answer['into']}; nothing was changed. Next: the same with --execute")


def estimate_row(found: Estimate) -> dict[str, Any]:
    """The facts of an estimate, JSON."""
    return {**asdict(found), "token_range": found.token_range, "second_range": found.second_range}


def told_estimate(found: Estimate) -> str:
    """The estimate in two lines."""
    asked = f"{found.fewest:,}" if found.fewest == found.most else f"{found.fewest:,} to {found.most:,}"
    first = (
        f"The model would be asked about {asked} of {found.records:,} items (by {found.sampled:,} sampled; fewest: "
        "what other versions know may be used again)."
    )
    if found.token_range is None or found.second_range is None:
        return f"{first}\nWhat one costs is not known: no item was distilled yet."
    low, high = found.token_range
    slow = [time.strftime("%H:%M:%S", time.gmtime(seconds)) for seconds in found.second_range]
    days = " (and days)" if found.second_range[1] >= 86_400 else ""
    return (
        f"{first}\nAbout {low:,} to {high:,} tokens in {slow[0]} to {slow[1]}{days}, by the {found.answers:,} newest "
        f"answers and {found.at_once} calls at once."
    )


def show_ended(job: Job, seconds: float, as_json: bool) -> None:
    """What was done, and what comes next."""
    version = job.plan.request.version
    if as_json:
        click.echo(json.dumps({**job_row(job), "seconds": round(seconds, 3)}))
    else:
        for stage in job.plan.stages:
            what = "records" if stage.ranges else "users"
            click.echo(f"{stage.name}: {job.done.get(stage.name, 0):,} {what} done")
        if job.state == "done":
            click.echo(f"Done in {seconds:.1f} s. Next: freshet versions status {version}, then activate {version}")
        else:
            click.echo(f"Stopped after {seconds:.1f} s. Next: freshet replay --resume {job.id}")


def show_jobs(jobs: Sequence[Job], as_json: bool) -> None:
    """A row a job."""
    if as_json:
        click.echo(json.dumps({"jobs": [job_row(job) for job in jobs]}))
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


@contextmanager
def stage_bars(plan: ReplayPlan, quiet: bool) -> Iterator[Callable[[Stage, int], None]]:
    """A bar for each stage, on standard error."""
    with bars(quiet) as tell:
        for stage in plan.stages:
            tell(stage.name, 0, stage.total)
        yield lambda stage, behind: tell(stage.name, behind, stage.total)
