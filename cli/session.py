"""What the commands about versions and replays work with: settings, Redis, the versions, and how to say what is wrong.

Owns no command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
import redis
from confluent_kafka import KafkaException
from redis.exceptions import RedisClusterException
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cli.times import parse_duration, parse_time
from freshet.clock import wall_clock
from freshet.connect import Client, connect
from freshet.layout import check_version
from local.stack.state import resolve
from schemas.registry import RegistryRejected, RegistryUnavailable
from store.coverage import Coverage, coverage, shape_of
from store.versions import VersionError, Versions
from streams.kafka.ranges import NothingCame
from streams.settings import Settings


class Duration(click.ParamType):
    """See `cli.times.parse_duration`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return value if isinstance(value, float) else parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Time(click.ParamType):
    """See `cli.times.parse_time`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_time(str(value), wall_clock())
        except ValueError as error:
            self.fail(str(error), param, ctx)


def version_name(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuse a name that no version can have, with exit code 2."""
    try:
        for one in value if isinstance(value, tuple) else [value] if value else []:
            check_version(one)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error
    return value


@dataclass(frozen=True, slots=True)
class OperatorSession:
    """What every command works with."""

    settings: Settings
    client: Client
    versions: Versions

    @property
    def prefix(self) -> str:
        return self.settings.key_prefix

    def known(self, version: str) -> None:
        """Fail where no version is called so."""
        if (seen := self.versions.overview()).state(version) == "unknown":
            known = f"known are {', '.join(seen.all)}" if seen.all else "there is none yet"
            raise click.ClickException(
                f"no version is called {version!r}, {known}; `freshet versions create {version}` makes it"
            )

    def workers(self, version: str) -> list[str]:
        """Who writes the version now."""
        return [worker.name for worker in self.versions.workers(version)]

    def compared(
        self, version: str, against: str | None, active_within: float, sample: int, *, quiet: bool
    ) -> tuple[Coverage, str]:
        """Coverage and shape of `version`, with a progress line on standard error."""
        with counted(f"Comparing {version} with {against}", quiet) as advance:
            found = coverage(
                self.client,
                self.prefix,
                version,
                against,
                active_within_s=active_within,
                sample=sample,
                progress=advance,
            )
        return found, shape_of(self.client, self.prefix, version)


@contextmanager
def operator_session(*needed: str, refusals: tuple[type[Exception], ...] = ()) -> Iterator[OperatorSession]:
    """Connect to Redis, and turn what goes wrong into one line and exit code 1; `refusals` are errors that say it all.

    `needed` are the other services, besides Redis, whose addresses must be known.
    """
    settings = resolve(Settings.load(), "redis", *needed)
    refused: tuple[type[Exception], ...] = (VersionError, RegistryUnavailable, RegistryRejected, NothingCame, *refusals)
    try:
        client = connect(settings.redis.url, socket_timeout=30, socket_connect_timeout=5)
        try:
            yield OperatorSession(settings, client, Versions(client, settings.key_prefix))
        finally:
            client.close()
    except refused as error:
        raise click.ClickException(str(error)) from error
    except (redis.RedisError, RedisClusterException) as error:
        raise click.ClickException(
            f"Redis does not answer ({error}); is FRESHET_REDIS right, or `freshet up` running?"
        ) from error
    except KafkaException as error:
        raise click.ClickException(f"Kafka at {settings.kafka.servers}: {error.args[0].str()}") from error


@contextmanager
def counted(what: str, quiet: bool) -> Iterator[Callable[[int], None]]:
    columns = (SpinnerColumn(), TextColumn("{task.description}: {task.completed:,.0f}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda n: progress.advance(task, n)


@contextmanager
def bars(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each step on standard error; told a step's name, how much is done, and of how much."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=done, total=total)

        yield tell
