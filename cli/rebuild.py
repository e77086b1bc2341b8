"""`freshet rebuild`: an empty Redis filled from the log, and compared with it.

Owns the options and what is shown. The work is `streams.jobs.rebuild`'s.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cli.session import bars, operator_session, version_name
from streams.kafka.ranges import NoTopic
from streams.settings import Settings

Tell = Callable[[str, int, int], None]


@click.command()
@click.option("--version", default="", callback=version_name, help="The version; default FRESHET_VERSION.")
@click.option("--verify", "compare", is_flag=True, help="Change nothing: compare Redis with the log.")
@click.option("--rate", type=click.FloatRange(min=0), default=0.0, help="Records a second; 0: no limit.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON, without progress.")
def rebuild(version: str, compare: bool, rate: float, as_json: bool) -> None:
    """Fill Redis for VERSION from its topics, item-knowledge and user-events: no model is asked.

    Safe beside live workers and as often as you like: newer is never replaced by older. What only Redis had is
    gone: see docs/use/operators/rebuild.md. Exit code 0: done, no differences; 1: failed, stopped, or differences; 2:
    wrong options.
    """
    with operator_session("kafka", refusals=(NoTopic,)) as session:
        settings = session.settings.replace(version=version) if version else session.settings
        began = time.monotonic()
        with bars(as_json) as tell:
            answer = _verify(settings, tell) if compare else _rebuild(settings, rate, tell)
        answer["seconds"] = round(time.monotonic() - began, 1)
    if as_json:
        click.echo(json.dumps(answer))
    elif compare:
        _show_differences(answer)
    else:
        _show_rebuilt(answer)
    if answer.get("differences") or answer.get("stopped"):
        sys.exit(1)


def _rebuild(settings: Settings, rate: float, tell: Tell) -> dict[str, Any]:
    from streams.jobs.rebuild.rebuilder import Rebuilder, Rebuilt
    from streams.wiring.resources import Resources

    async def work() -> Rebuilt:
        resources = Resources(settings)
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            return await Rebuilder(resources, rate=rate, progress=tell).run(stop)
        finally:
            await resources.close()

    done = asyncio.run(work())
    return {
        "version": done.version,
        "activated": done.activated,
        "read": dict(done.read),
        "refused": dict(done.refused),
        "due": done.due,
        "stopped": done.stopped,
    }


def _verify(settings: Settings, tell: Tell) -> dict[str, Any]:
    from streams.jobs.rebuild.verify import verify
    from streams.wiring.resources import Resources

    resources = Resources(settings)
    try:
        report = verify(resources, progress=tell)
    finally:
        asyncio.run(resources.close())
    return {
        "version": report.version,
        "compared": dict(report.compared),
        "differences": report.total,
        "by_kind": [
            {"kind": kind, "difference": how, "count": count, "examples": report.examples[kind, how]}
            for (kind, how), count in sorted(report.differences.items())
        ],
        "expired": dict(report.expired),
    }


def _show_rebuilt(answer: dict[str, Any]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("Topic")
    table.add_column("Records", justify="right")
    for topic, count in answer["read"].items():
        table.add_row(topic, f"{count:,}")
    Console(highlight=False).print(table)
    if answer["refused"]:
        told = ", ".join(f"{count:,} {reason}" for reason, count in answer["refused"].items())
        click.echo(f"Passed over, as their lanes did: {told}")
    if answer["activated"]:
        click.echo(f"No version was active: rankers read {answer['version']} now.")
    ended = "Stopped; again from the start:" if answer["stopped"] else f"Done in {answer['seconds']:g} s,"
    click.echo(f"{ended} {answer['due']:,} users are due. Next: freshet rebuild --version {answer['version']} --verify")


_PLURAL = {"item": "items", "user": "users", "knowledge": "pieces of knowledge", "history": "histories"}


def _show_differences(answer: dict[str, Any]) -> None:
    compared = ", ".join(f"{count:,} {_PLURAL[kind]}" for kind, count in answer["compared"].items())
    click.echo(f"Compared {compared} in {answer['seconds']:g} s.")
    if answer["expired"]:
        click.echo(
            "Expired, as their age says: "
            + ", ".join(f"{n:,} {_PLURAL[kind]}" for kind, n in answer["expired"].items())
        )
    if not answer["differences"]:
        click.echo("No differences.")
        return
    table = Table("Kind", "In Redis", "Keys", "Examples", box=None, padding=(0, 2, 0, 0))
    for row in answer["by_kind"]:
        table.add_row(row["kind"], row["difference"], f"{row['count']:,}", ", ".join(row["examples"][:3]))
    Console(highlight=False).print(table)
    click.echo(f"{answer['differences']:,} differences. Next: freshet rebuild --version {answer['version']}")
