"""`freshet schemas`: what a schema registry has of our contracts, and putting them there.

Owns what is shown. The contracts are `schemas`', the comparison `streams.kafka.subjects`'.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from schemas.registry import RegistryClient, RegistryRejected, RegistryUnavailable
from streams.kafka.subjects import LEVEL, Subject
from streams.kafka.subjects import check as check_subjects
from streams.kafka.subjects import register as register_subjects
from streams.kafka.topics import Topics
from streams.settings import SettingError, Settings


@click.group()
def schemas() -> None:
    """Compare our Avro contracts with a schema registry (FRESHET_REGISTRY), or register them.

    Exit code 0: every topic's subject has its contract, FULL_TRANSITIVE; 1: not so, or no answer; 2: wrong settings.
    """


@schemas.command()
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
def check(as_json: bool) -> None:
    """Compare each subject; changes nothing."""
    _answer(check_subjects, as_json)


@schemas.command()
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
def register(as_json: bool) -> None:
    """Register every version of every subject.

    Also sets its compatibility. May be repeated.

    Run it before workers with FRESHET_REGISTRY__AUTO_REGISTER=false, and again before an upgrade: a release whose
    contract the registry refuses is found before it writes.
    """
    _answer(register_subjects, as_json)


def _answer(ask: Callable[[RegistryClient, Topics], list[Subject]], as_json: bool) -> None:
    settings = Settings.load()
    if not settings.registry.url:
        raise SettingError("registry", "", "the URL of a schema registry; without one records name their schema")
    try:
        found = ask(RegistryClient(settings.registry.url), Topics(settings))
    except (RegistryUnavailable, RegistryRejected) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found]))
    else:
        _show(found)
    if not all(one.good for one in found):
        sys.exit(1)


def _show(found: list[Subject]) -> None:
    table = Table("Subject", "Contract", "State", "Compatibility", box=None, padding=(0, 2, 0, 0))
    for one in found:
        table.add_row(one.name, one.kind, one.state, one.level or "the registry's default")
    Console(highlight=False).print(table)
    for one in found:
        if one.message:
            click.echo(f"{one.name}: {one.message}")
    wrong = sum(not one.good for one in found)
    if wrong:
        click.echo(f"{wrong} of {len(found)} subjects are not registered as {LEVEL}. Next: freshet schemas register")
    else:
        click.echo(f"All {len(found)} subjects have their contract. Next: freshet worker")
