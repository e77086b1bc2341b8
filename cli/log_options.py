"""Where a training's events and items come from: files, the topics, or the histories; the same options for every one.

Owns these options, that exactly one source is named, and what is said of records that were left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
import pyarrow as pa
import redis
from confluent_kafka import KafkaException
from rich.progress import Progress

from freshet.connect import connect
from freshet.records import Item
from local.stack.state import resolve
from schemas.files import FileError, read_events, read_items
from schemas.registry import RegistryRejected, RegistryUnavailable
from store.histories import HistoryStore
from streams.jobs.event_log import (
    EventLog,
    ItemLog,
    LogError,
    read_event_topic,
    read_histories,
    read_item_topic,
    skipped_by_reason,
)
from streams.settings import Settings
from streams.wiring.resources import Resources

F = TypeVar("F", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """Events (`files.EVENT_SCHEMA`), the catalogue, and counts of what was left out, for `--json`."""

    events: pa.Table
    items: list[Item]
    told: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogSource:
    """Two files, or the topics, or the histories with the catalogue's topic."""

    events: Path | None = None
    items: Path | None = None
    histories: bool = False

    def resolve(self, settings: Settings) -> Settings:
        """`settings` with the addresses this source needs; raises `SettingError` where one is missing."""
        if self.events is not None:
            return settings
        return resolve(settings, "kafka", "redis") if self.histories else resolve(settings, "kafka")

    def read(self, settings: Settings, bar: Progress) -> TrainingLog:
        """Read it all, or raise a `ClickException` that says why not. What was left out is said on standard error."""
        try:
            if self.events is not None and self.items is not None:
                return TrainingLog(read_events(self.events), list(read_items(self.items, default_time=0)))
            return self._read_topics(Resources(settings), bar)
        except KafkaException as error:
            raise click.ClickException(f"Kafka at {settings.kafka.servers}: {error.args[0].str()}") from error
        except (FileError, LogError, redis.RedisError, RegistryUnavailable, RegistryRejected) as error:
            raise click.ClickException(str(error)) from error

    def _read_topics(self, resources: Resources, bar: Progress) -> TrainingLog:
        settings, topics, codec = resources.settings, resources.topics, resources.codec
        task = bar.add_task("reading events", total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if self.histories:
            with connect(settings.redis.url) as client:
                events = read_histories(HistoryStore(client, settings.key_prefix))
        else:
            events = read_event_topic(settings, topics.user_events, codec, resources.clock(), report)
        bar.update(task, description="reading items")
        items = read_item_topic(settings, topics.items, codec, resources.clock(), report)
        _say(topics.user_events, events, topics.items, items)
        skipped = sum(events.skipped.values()) + sum(items.skipped.values())
        return TrainingLog(events.events, items.items, {"skipped": skipped, "erased": events.erased})


def log_options(*, histories: bool) -> Callable[[F], F]:
    """Give a command the options that name a source, and the `LogSource` they name as `source`."""
    file = click.Path(path_type=Path)
    instead = ("--events with --items", "--from-topic", *(["--from-histories"] if histories else []))
    wanted = f"wanted one source: {', '.join(instead[:-1])} or {instead[-1]}"

    def decorate(command: F) -> F:
        @wraps(command)
        def with_source(
            *, events: Path | None, items: Path | None, from_topic: bool, from_histories: bool = False, **rest: Any
        ) -> None:
            files = events is not None or items is not None
            if files + from_topic + from_histories != 1 or (files and (events is None or items is None)):
                raise click.UsageError(wanted)
            command(source=LogSource(events, items, from_histories), **rest)

        options = [
            click.option("--events", type=file, help="Parquet or JSON lines: the log."),
            click.option("--items", type=file, help="Parquet or JSON lines: the catalogue."),
            click.option("--from-topic", is_flag=True, help="Instead of files: topics `user-events` and `items`."),
        ]
        if histories:
            about = "Instead of files: the users' newest events in Redis, and topic `items`."
            options.append(click.option("--from-histories", is_flag=True, help=about))
        made: Any = with_source
        for option in reversed(options):
            made = option(made)
        return made  # type: ignore[no-any-return]

    return decorate


def _say(event_topic: str, events: EventLog, item_topic: str, items: ItemLog) -> None:
    for topic, skipped in ((event_topic, events.skipped), (item_topic, items.skipped)):
        if counted := skipped_by_reason(skipped):
            click.echo(f"{topic}: {counted}", err=True)
    if events.erased:
        click.echo(f"{event_topic}: {events.erased:,} events of erased users left out", err=True)
    if events.repeated:
        click.echo(f"{event_topic}: {events.repeated:,} events came twice, by their event id", err=True)
