"""`freshet erase`: forget users everywhere, with a receipt.

Owns the options and what is shown. The work is `streams.jobs.erasure`'s.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cli.dlq_view import timestamp
from cli.session import operator_session
from processors.validate import ContractViolation
from streams.errors import DeliveryFailed
from streams.jobs.dead_letters.rewrite import Busy
from streams.kafka.ranges import NoTopic


@click.command()
@click.argument("users", nargs=-1, metavar="[USER]...")
@click.option("--file", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Ids, one a line.")
@click.option("--receipt", type=click.Path(dir_okay=False, path_type=Path), help="Write the receipt here too, JSON.")
@click.option("--execute", is_flag=True, help="Do it; without it, only say what is known of them.")
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
def erase(users: tuple[str, ...], file: Path | None, receipt: Path | None, execute: bool, as_json: bool) -> None:
    """Erase users everywhere, with a receipt.

    Histories, features of all versions, refresh queues, dead letters. No replay brings them back.

    What they do afterwards counts as a new user's. What Kafka still holds, and until when, is in the receipt; see
    docs/use/operators/erase.md. Exit code 0: done; 1: something is owed, do it again; 2: wrong options.
    """
    wanted = [*users, *(file.read_text(encoding="utf-8").splitlines() if file else ())]
    names = [name for name in wanted if name.strip()]
    if not names:
        raise click.UsageError("name users, or a --file of them")
    from streams.jobs.erasure.eraser import Eraser, check_user
    from streams.wiring.resources import Resources

    try:
        for name in names:
            check_user(name)
    except ContractViolation as error:
        raise click.BadParameter(str(error), param_hint="USER") from error
    with operator_session("kafka", refusals=(NoTopic, Busy, DeliveryFailed)) as session:
        resources = Resources(session.settings)
        try:
            if not execute:
                _show_known(Eraser(resources).known(names), as_json)
                return
            answer = asdict(Eraser(resources).erase(names))
        finally:
            asyncio.run(resources.close())
    if receipt is not None:
        receipt.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    if as_json:
        click.echo(json.dumps(answer))
    else:
        _show(answer)
    if any(one["owed"] for one in answer["receipts"]):
        sys.exit(1)


def _show_known(known: dict[str, tuple[int, list[str]]], as_json: bool) -> None:
    if as_json:
        rows = {user: {"events": events, "features": versions} for user, (events, versions) in known.items()}
        click.echo(json.dumps({"execute": False, "users": rows}))
        return
    for user, (events, versions) in known.items():
        click.echo(f"{user}: {events:,} events, features in {', '.join(versions) or 'no version'}")
    click.echo(f"{len(known):,} users would be erased. Next: the same with --execute")


def _show(answer: dict[str, Any]) -> None:
    for one in answer["receipts"]:
        features = ", ".join(one["features"]) or "no version"
        click.echo(
            f"{one['user_digest']}: erased up to {timestamp(one['erased_ms'])}; {one['events']:,} events, "
            f"features in {features}"
        )
        for owed in one["owed"]:
            click.echo(f"  still there: {owed}; run it again")
    dead_letters = sum(answer["dead_letters"].values())
    click.echo(f"{dead_letters:,} dead letters removed; deletions on {', '.join(answer['receipts'][0]['tombstones'])}")
    for remains in answer["receipts"][0]["remains"]:
        click.echo(f"Kafka still holds {remains}")
