"""`freshet topics`: make the topics of a deployment, or look at them.

Owns what is shown. Names and settings are `streams.kafka.topics`'.
"""

from __future__ import annotations

import json

import click
from confluent_kafka import KafkaException
from rich.console import Console
from rich.table import Table

from local.stack.state import resolve
from streams.kafka.producer import kafka_config
from streams.kafka.topics import Topics, existing
from streams.settings import Settings


@click.group()
def topics() -> None:
    """Create or list the topics."""


@topics.command()
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
def create(as_json: bool) -> None:
    """Create the topics that are missing.

    Existing topics stay as they are.
    """
    settings = resolve(Settings.load(), "kafka")
    try:
        made = Topics(settings).create(kafka_config(settings))
    except KafkaException as error:
        raise click.ClickException(f"Kafka at {settings.kafka.servers}: {error.args[0].str()}") from error
    there = [topic.name for topic in Topics(settings).all() if topic.name not in made]
    if as_json:
        click.echo(json.dumps({"created": made, "existed": there}))
        return
    for name in made:
        click.echo(f"created {name}")
    click.echo(f"{len(made)} created, {len(there)} existed. Next: freshet worker")


@topics.command("list")
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
def list_topics(as_json: bool) -> None:
    """Show every topic of the current version.

    What it is for, and whether it exists.
    """
    settings = resolve(Settings.load(), "kafka")
    wanted = Topics(settings).all()
    try:
        found = existing(kafka_config(settings), [topic.name for topic in wanted])
    except KafkaException as error:
        raise click.ClickException(f"Kafka at {settings.kafka.servers}: {error.args[0].str()}") from error
    if as_json:
        rows = [
            {"name": t.name, "about": t.about, "compacted": t.compacted, "partitions": found.get(t.name, 0)}
            for t in wanted
        ]
        click.echo(json.dumps(rows))
        return
    table = Table("Topic", "Partitions", "Kept", "What")
    for topic in wanted:
        kept = "newest of each key" if topic.compacted else "30 days"
        table.add_row(topic.name, str(found.get(topic.name, "missing")), kept, topic.about)
    Console().print(table)
    if len(found) < len(wanted):
        click.echo("Next: freshet topics create")
