"""How versions look: one row of facts for machines and people alike, and the tables made of them.

Owns presentation only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from freshet.connect import Client
from store.coverage import Coverage, Share, live_items, newest_write_ms
from store.versions import Pinned, VersionNames, Versions

STYLES = {"active": "green", "previous": "cyan", "shadow": "yellow", "old": "dim", "retiring": "red"}
ABOUT = {"retiring": "being deleted"}


def row(client: Client, prefix: str, versions: Versions, seen: VersionNames, name: str) -> dict[str, Any]:
    """The facts about one version that cost no walk over its keys."""
    newest = newest_write_ms(client, prefix, name)
    return {
        "version": name,
        "state": seen.state(name),
        "created_ms": seen.created.get(name),
        "live_items": live_items(client, prefix, name),
        "newest_item_write_ms": newest or None,
        "workers": [
            {"name": worker.name, "seen_ms": worker.seen_ms, "lanes": worker.about.get("lanes", [])}
            for worker in versions.workers(name)
        ],
    }


def manifest(found: Mapping[str, Pinned]) -> dict[str, Any]:
    """Components by name."""
    return {name: {"value": one.value, "by": one.by, "at_ms": one.at_ms} for name, one in found.items()}


def coverage(found: Coverage) -> dict[str, Any]:
    """Shares and counts, JSON."""
    return {
        "against": found.against,
        "items": _share(found.items),
        "users": _share(found.users),
    }


def _share(share: Share) -> dict[str, Any]:
    return {
        "share": round(share.share, 6),
        "looked_at": share.looked_at,
        "covered": share.covered,
        "compared": share.compared,
        "older": share.older,
        "median_age_s": None if math.isinf(share.age_s) else round(share.age_s, 3),
    }


def show_list(answer: dict[str, Any]) -> None:
    """A row a version."""
    if not answer["versions"]:
        click.echo("No version yet. Next: freshet worker, or freshet versions create NAME")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("Version", "State", "Made", "Live items", "Last item written", "Workers"):
        table.add_column(title, justify="right" if title == "Live items" else "left", overflow="fold")
    for one in answer["versions"]:
        table.add_row(
            one["version"],
            _state(one["state"]),
            _when(one["created_ms"]),
            f"{one['live_items']:,}",
            _when(one["newest_item_write_ms"]),
            str(len(one["workers"])),
        )
    _console().print(table)
    states = {one["state"]: one["version"] for one in answer["versions"]}
    if "retiring" in states:
        click.echo(f"Next: freshet versions gc {states['retiring']} --execute ends its deletion")
    elif "shadow" in states:
        click.echo(f"Next: freshet versions status {states['shadow']}")
    elif "old" in states:
        click.echo("Next: freshet versions gc shows what the old ones hold")
    else:
        click.echo("Next: freshet versions status")


def show_created(answer: dict[str, Any], *, registry: bool) -> None:
    """What to do with a new version."""
    name = answer["version"]
    click.echo(f"{'Created' if answer['created'] else 'There is already'} {name}; {_topics(answer['topics_created'])}")
    steps = [f"FRESHET_VERSION={name} freshet schemas register"] if registry else []
    steps += [
        f"FRESHET_VERSION={name} freshet worker (beside the workers of the active version), then",
        f"freshet replay --into {name} --execute, and freshet versions status {name}",
    ]
    click.echo("Next: " + "\n      ".join(steps))


def show_status(answer: dict[str, Any]) -> None:
    """Facts, manifest, coverage, and whether it is fit."""
    console, name, state = _console(), answer["version"], answer["state"]
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("version", Text.assemble(name, "  ", _state(state)))
    facts.add_row("made", _when(answer["created_ms"]))
    facts.add_row("vectors", answer["shape"] or "none yet")
    facts.add_row("keys", ", ".join(f"{n:,} {kind}" for kind, n in answer["keys"].items()) or "none")
    facts.add_row("last item written", _when(answer["newest_item_write_ms"]))
    workers = [f"{one['name']} ({', '.join(one['lanes'])})" for one in answer["workers"]]
    facts.add_row("workers", "\n".join(workers) or "none")
    console.print(facts)
    parts = Table("Component", "Value", "Pinned by", "", box=None, pad_edge=False, header_style="dim")
    for part, one in answer["manifest"].items():
        parts.add_row(part, one["value"], one["by"], _when(one["at_ms"] or None))
    console.print(parts if answer["manifest"] else "Nothing is pinned yet.")
    console.print(_coverage(answer["coverage"]))
    _reasons(console, answer["reasons"])
    if state == "active":
        click.echo("Next: freshet features get item|user ID")
    elif state == "retiring":
        click.echo(f"Next: freshet versions gc {name} --execute")
    elif answer["reasons"]:
        click.echo("Next: what the lines above ask for")
    else:
        click.echo(f"Next: freshet versions activate {name}")


def show_activated(answer: dict[str, Any]) -> None:
    """What rankers read now, or why not."""
    console, name, before = _console(), answer["version"], answer["before"]
    console.print(_coverage(answer["coverage"]))
    _reasons(console, answer["reasons"])
    if answer["activated"]:
        click.echo(f"Rankers read {name}{f', before {before}' if before else ''}.")
        _warn_unwritten(console, name, answer["workers"])
        click.echo("Next: watch your ranker; freshet versions rollback goes back at once")
    elif name == before:
        click.echo(f"{name} is active already.")
    else:
        click.echo(f"Not activated: rankers go on with {before}.", err=True)
        click.echo("Next: what the lines above ask for, or --least-items, --least-users, --force", err=True)


def show_rolled_back(answer: dict[str, Any]) -> None:
    """Which way it went."""
    click.echo(f"Rankers read {answer['active']} again; {answer['previous']} is kept as the previous one.")
    _warn_unwritten(_console(), answer["active"], answer["workers"])
    click.echo(f"Next: freshet versions status {answer['previous']}; a second rollback goes forward again")


def show_collected(answer: dict[str, Any]) -> None:
    """What went, or would."""
    console, rows = _console(), answer["versions"]
    if not rows:
        click.echo("Nothing to delete: no version is older than the active one but the previous.")
    for one in rows:
        if one["refused"]:
            console.print(Text(f"kept {one['version']}: {one['refused']}", style="yellow"))
            continue
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in one.get("kinds", {}).items())
        verb = "deleted" if answer["executed"] else "would delete"
        what = f"{verb} {one['version']}: {one['keys']:,} keys{f' ({kinds})' if kinds else ''}, {_topics(one['kafka'])}"
        console.print(what)
        for worker in one.get("workers", ()):
            console.print(Text(f"  {worker} writes it: stop it first, or --force", style="yellow"))
    for name in answer["shadows"]:
        click.echo(f"kept {name}: it is younger than the active one; name it to delete it")
    if rows and not answer["executed"]:
        named = " ".join(one["version"] for one in rows if not one["refused"])
        click.echo(f"Next: freshet versions gc {named} --execute" if named else "Next: freshet versions list")
    elif rows:
        click.echo("Next: freshet versions list")


def _coverage(found: dict[str, Any]) -> Table | str:
    if found["against"] is None:
        return "No version is active: there is nothing to compare with."
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in (f"Of {found['against']}", "Share", "There", "Of", "Older than there", "Median age"):
        table.add_column(title, justify="left" if title.startswith("Of ") else "right")
    for what, name in (("items", "live items"), ("users", "active users")):
        one = found[what]
        age = "" if one["median_age_s"] is None else f"{one['median_age_s']:,.0f} s"
        older = f"{one['older']:,} of {one['compared']:,}"
        table.add_row(name, f"{one['share']:.2%}", f"{one['covered']:,}", f"{one['looked_at']:,}", older, age)
    return table


def _reasons(console: Console, reasons: list[str]) -> None:
    for one in reasons:
        console.print(Text(f"not fit: {one}", style="yellow"))


def _warn_unwritten(console: Console, name: str, workers: list[str]) -> None:
    if not workers:
        line = f"no worker writes {name}, it grows old: start one with FRESHET_VERSION={name}"
        console.print(Text(line, style="yellow"))


def _topics(names: list[str]) -> str:
    return f"on Kafka {', '.join(names)}" if names else "nothing on Kafka"


def _state(state: str) -> Text:
    return Text(ABOUT.get(state, state), style=STYLES.get(state, ""))


def _when(ms: int | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1_000)) if ms else "never" if ms is None else ""


def _console() -> Console:
    return Console(highlight=False, soft_wrap=False)
