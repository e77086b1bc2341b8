"""`freshet versions`: make, compare, activate, roll back and delete feature versions.

Owns the commands, their checks and exit codes. How an answer looks is `cli.versions_view`'s, connections are
`cli.session`'s.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any, ParamSpec

import click

from cli import versions_view as page
from cli.session import Duration, OperatorSession, counted, operator_session, version_name
from store.coverage import ACTIVE_WITHIN_S, LEAST_ITEMS, LEAST_USERS, SAMPLE, unfit
from store.scan import RATE, Pace
from store.version_gc import census, collect, collectable
from store.versions import VersionError
from streams.jobs.version_topics import delete, existing_topics
from streams.kafka.producer import kafka_config
from streams.kafka.topics import Topics
from streams.versions.components import required_by_lane

P = ParamSpec("P")
_json = click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
_share = click.FloatRange(0, 1)


def _measured(command: Callable[P, None]) -> Callable[P, None]:
    """The options of a comparison with the active version."""
    within = click.option(
        "--active-within", type=Duration(), default=ACTIVE_WITHIN_S, show_default="7d", help="Who is an active user."
    )
    sample = click.option(
        "--sample", type=click.IntRange(1), default=SAMPLE, show_default=True, help="Active users that are looked up."
    )
    return within(sample(command))


def _answer(answer: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    if as_json:
        click.echo(json.dumps(answer))
    else:
        show(answer)


@click.group()
def versions() -> None:
    """Make, compare, activate, roll back and delete feature versions."""


@versions.command("list")
@_json
def list_(as_json: bool) -> None:
    """Show every version and its state.

    A state is active, previous, shadow (newer than the active version), old, or being deleted.
    """
    with operator_session() as session:
        seen = session.versions.overview()
        rows = [page.row(session.client, session.prefix, session.versions, seen, name) for name in seen.all]
    _answer({"active": seen.active, "previous": seen.previous, "versions": rows}, as_json, page.show_list)


@versions.command()
@click.argument("name", callback=version_name)
@click.option("--pin", "pins", multiple=True, metavar="COMPONENT=VALUE", help="Pin before any worker does.")
@click.option("--topics/--no-topics", default=True, help="Make its Kafka topics too, where Kafka is configured.")
@_json
def create(name: str, pins: tuple[str, ...], topics: bool, as_json: bool) -> None:
    """Make the shadow version NAME, to be filled by replay.

    A version that exists stays as it is.
    """
    for one in pins:
        if not re.fullmatch(r"[a-z][a-z_-]*=.+", one):
            raise click.BadParameter(f"{one!r} is not COMPONENT=VALUE", param_hint="--pin")
    with operator_session() as session:
        new = session.versions.create(name, dict(one.split("=", 1) for one in pins), by="freshet versions create")
        made: list[str] = []
        if topics and session.settings.kafka.servers:
            made = Topics(session.settings, name).create(kafka_config(session.settings))
        registry = bool(session.settings.registry.url)
    answer = {"version": name, "created": new, "topics_created": made}
    _answer(answer, as_json, lambda found: page.show_created(found, registry=registry))


@versions.command()
@click.argument("name", required=False, callback=version_name)
@_measured
@_json
def status(name: str | None, active_within: float, sample: int, as_json: bool) -> None:
    """Show components, coverage and age of NAME.

    Without NAME: of the active version. Also lists the workers that write it.
    """
    with operator_session() as session:
        version = name or session.versions.active()
        if version is None:
            raise click.ClickException("no version is active yet: start `freshet worker`")
        session.known(version)
        seen = session.versions.overview()
        found, shape = session.compared(version, seen.active, active_within, sample, quiet=as_json)
        with counted(f"Counting the keys of {version}", as_json) as advance:
            counts = census(session.client, session.prefix, version, progress=advance)
        manifest = session.versions.manifest(version)
        answer = page.row(session.client, session.prefix, session.versions, seen, version) | {
            "shape": shape or None,
            "keys": dict(sorted(counts.items())),
            "manifest": page.manifest(manifest),
            "coverage": page.coverage(found),
            "reasons": unfit(found, manifest, shape, required_by_lane()),
        }
    _answer(answer, as_json, page.show_status)


@versions.command()
@click.argument("name", callback=version_name)
@click.option(
    "--least-items", type=_share, default=LEAST_ITEMS, show_default=True, help="Share of live items it needs."
)
@click.option("--least-users", type=_share, default=LEAST_USERS, show_default=True, help="Share of active users.")
@click.option("--force", is_flag=True, help="Activate whatever is missing; the reasons are shown as warnings.")
@_measured
@_json
def activate(
    name: str, least_items: float, least_users: float, force: bool, active_within: float, sample: int, as_json: bool
) -> None:
    """Make rankers read NAME, if nothing is missing there.

    Items and users are swapped together, by one pointer.

    Exit code 1, and nothing is changed, where it has not.
    """
    with operator_session() as session:
        session.known(name)
        before = session.versions.active()
        found, shape = session.compared(name, before, active_within, sample, quiet=as_json)
        manifest = session.versions.manifest(name)
        reasons = unfit(found, manifest, shape, required_by_lane(), least_items=least_items, least_users=least_users)
        done = name != before and (force or not reasons)
        if done and before is None:
            done = session.versions.activate_if_none(name)
        elif done:
            session.versions.activate(name, instead_of=before)
        answer = {
            "version": name,
            "activated": done,
            "before": before,
            "forced": force and bool(reasons),
            "workers": session.workers(name),
            "coverage": page.coverage(found),
            "reasons": reasons,
        }
    _answer(answer, as_json, page.show_activated)
    if not done and name != before:
        sys.exit(1)


@versions.command()
@_json
def rollback(as_json: bool) -> None:
    """Make rankers read the previous version again.

    It takes effect at once. Doing it twice goes forward again.
    """
    with operator_session() as session:
        left, now = session.versions.rollback()
        answer = {"active": now, "previous": left, "workers": session.workers(now)}
    _answer(answer, as_json, page.show_rolled_back)


@versions.command()
@click.argument("names", nargs=-1, callback=version_name)
@click.option("--execute", is_flag=True, help="Delete; without it only show what would go.")
@click.option("--force", is_flag=True, help="Stop the version's workers first; never the active or previous one.")
@click.option("--topics/--no-topics", default=True, help="Its Kafka topics and groups too, where Kafka is configured.")
@click.option("--rate", type=click.FloatRange(1), default=RATE, show_default=True, help="Keys looked at a second.")
@_json
def gc(names: tuple[str, ...], execute: bool, force: bool, topics: bool, rate: float, as_json: bool) -> None:
    """Delete old versions, or those named.

    Without names: all that are older than the active one, except the previous.

    In small steps that hold up no ranker. Interrupted, it is ended by the same command again.
    """
    with operator_session() as session:
        seen = session.versions.overview()
        chosen = list(names) or collectable(seen)
        rows = []
        for name in chosen:
            if execute:
                rows.append(_collect(session, name, force=force, topics=topics, rate=rate, quiet=as_json))
            else:
                rows.append(_preview(session, name, topics=topics, rate=rate, quiet=as_json))
        left = [name for name in seen.all if seen.state(name) == "shadow" and name not in chosen]
    answer = {"executed": execute, "versions": rows, "shadows": left}
    _answer(answer, as_json, page.show_collected)
    if any(row["refused"] for row in rows):
        sys.exit(1)


def _collect(
    session: OperatorSession, name: str, *, force: bool, topics: bool, rate: float, quiet: bool
) -> dict[str, Any]:
    gone: list[str] = []

    def kafka() -> None:
        if topics and session.settings.kafka.servers:
            gone.extend(delete(session.settings, name))

    preview = _preview(session, name, topics=topics, rate=rate, quiet=quiet)
    if preview["refused"]:
        return preview
    try:
        with counted(f"Deleting keys of {name}", quiet) as advance:
            deleted = collect(
                session.client,
                session.prefix,
                name,
                force=force,
                pace=Pace(rate),
                progress=advance,
                before_forgetting=kafka,
            )
    except VersionError as error:
        return {"version": name, "keys": 0, "kafka": [], "refused": str(error)}
    return {"version": name, "keys": deleted, "kafka": gone, "refused": ""}


def _preview(session: OperatorSession, name: str, *, topics: bool, rate: float, quiet: bool) -> dict[str, Any]:
    state, refused = session.versions.overview().state(name), ""
    with counted(f"Counting the keys of {name}", quiet) as advance:
        counts = census(session.client, session.prefix, name, pace=Pace(rate), progress=advance)
    kafka = existing_topics(session.settings, name) if topics and session.settings.kafka.servers else []
    if state in ("active", "previous"):
        refused = f"{name} is the {state} version"
    elif state == "unknown" and not counts and not kafka:
        refused = "no version is called so, and there is nothing of it"
    return {
        "version": name,
        "keys": counts.total(),
        "kinds": dict(sorted(counts.items())),
        "kafka": kafka,
        "workers": session.workers(name),
        "refused": refused,
    }
