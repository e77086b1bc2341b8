"""`freshet send`: items or events from a file to Kafka, as a platform would send them.

Owns options, progress and the closing count. Files are `schemas.files`', sending is `streams.jobs.bulk_send`'s.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import click
from confluent_kafka import KafkaException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from freshet.clock import wall_clock
from local.stack.state import resolve
from schemas.codec import Codec
from schemas.files import FileError, read_events, read_items
from schemas.registry import RegistryClient
from streams.jobs.bulk_send import Keyed, SendCounts, keyed_events, keyed_items
from streams.jobs.bulk_send import send as send_records
from streams.kafka.producer import kafka_config
from streams.kafka.topics import Topics, existing
from streams.settings import Settings

_file = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_rate = click.option(
    "--rate", type=click.FloatRange(min=0), default=0.0, help="Records a second; 0: as fast as it goes."
)
_json = click.option("--json", "as_json", is_flag=True, help="Answer as JSON, without progress.")


@click.group()
def send() -> None:
    """Send items or events from a parquet or JSON lines file to Kafka."""


@send.command()
@_file
@_rate
@_json
def items(file: Path, rate: float, as_json: bool) -> None:
    """Send a catalogue.

    Columns: item_id, title; optional description, brand, category (path or list), attributes (JSON object), price and
    event_time, timestamp or updated_at (else now). Ids may be of any scalar type.
    """
    settings = _ready()
    topic = Topics(settings).items
    try:
        rows = list(read_items(file, default_time=wall_clock()))
    except FileError as error:
        raise click.ClickException(str(error)) from error
    _send(settings, topic, keyed_items(rows, _codec(settings), topic), len(rows), "items", rate, as_json)


@send.command()
@_file
@_rate
@_json
def events(file: Path, rate: float, as_json: bool) -> None:
    """Send an event log, in file order.

    Columns: user_id, item_id, event_time or timestamp; optional event_type (else "view"), value and event_id. Ids may
    be of any scalar type.
    """
    settings = _ready()
    topic = Topics(settings).user_events
    try:
        table = read_events(file)
    except FileError as error:
        raise click.ClickException(str(error)) from error
    _send(settings, topic, keyed_events(table, _codec(settings), topic), table.num_rows, "events", rate, as_json)


def _ready() -> Settings:
    """Settings with an address of Kafka, and the topics there: a missing one would take minutes to fail."""
    settings = resolve(Settings.load(), "kafka")
    topics = Topics(settings)
    wanted = [topics.items, topics.user_events]
    try:
        found = existing(kafka_config(settings), wanted)
    except KafkaException as error:
        raise click.ClickException(f"Kafka at {settings.kafka.servers}: {error.args[0].str()}") from error
    if missing := [name for name in wanted if name not in found]:
        raise click.ClickException(f"no topic {', '.join(missing)}; `freshet topics create` makes what is missing")
    return settings


def _codec(settings: Settings) -> Codec:
    if not settings.registry.url:
        return Codec()
    return Codec(RegistryClient(settings.registry.url, auto_register=settings.registry.auto_register))


def _send(
    settings: Settings, topic: str, records: Iterable[Keyed], total: int, what: str, rate: float, as_json: bool
) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=as_json, transient=True) as progress:
        task = progress.add_task(f"Sending {what}", total=total)
        tally = send_records(settings, topic, records, rate=rate, progress=lambda n: progress.advance(task, n))
    _report(tally, topic, what, as_json)
    if tally.failed:
        sys.exit(1)


def _report(tally: SendCounts, topic: str, what: str, as_json: bool) -> None:
    if as_json:
        answer = {
            "topic": topic,
            "confirmed": tally.confirmed,
            "failed": tally.failed,
            "seconds": round(tally.seconds, 3),
            "per_second": round(tally.per_second, 1),
            "errors": tally.errors,
        }
        click.echo(json.dumps(answer))
        return
    click.echo(f"{tally.confirmed:,} {what} confirmed in {topic}, {tally.seconds:.1f} s, {tally.per_second:,.0f}/s")
    for error in tally.errors:
        click.echo(f"failed: {error}", err=True)
    if tally.failed:
        click.echo(f"{tally.failed:,} {what} were not confirmed; sending the file again does no harm", err=True)
    else:
        click.echo("Next: freshet worker, then freshet features get item|user ID")
