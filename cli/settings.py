"""`freshet settings`: the values in force and where each comes from, or a file to start from.

Owns how they are shown. What a setting is, and where it comes from, is `streams.settings`'s.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from schemas.setting import kind, shown, variable
from streams.settings import Named, Settings, every_setting


@click.command()
@click.option("--toml", "as_toml", is_flag=True, help="Print a commented file to start from, every value its default.")
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
def settings(as_toml: bool, as_json: bool) -> None:
    """Show each setting's value and its source; secrets are masked.

    A value comes from FRESHET_* variables, else from the TOML file that FRESHET_CONFIG names, else it is the default.
    Exit code 2: a setting is wrong; the line says which, and what it wants.
    """
    if as_toml:
        click.echo(toml(), nl=False)
        return
    values, sources = Settings.load_with_sources()
    rows = [
        {"name": one.name, "value": _plain(one, values), "source": sources.get(one.name, "default")}
        for one in every_setting()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        Console().print(_table(rows))
        click.echo(
            "Change one by its variable, FRESHET_GROUP__NAME, or in a file: freshet settings --toml > freshet.toml"
        )


def toml() -> str:
    """A TOML file of every setting: commented out, with its default, meaning and range."""
    lines = ["# Settings of Freshet; FRESHET_CONFIG names this file. A FRESHET_* variable beats it.", ""]
    for group, members in groupby(every_setting(), key=lambda one: one.group):
        if group:
            lines += [f"[{group}]"]
        for one in members:
            lines += [
                f"# {one.field.metadata['about']} ({kind(one.field)})",
                f"# {one.field.name} = {_toml_value(one.default)}",
            ]
        lines.append("")
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (bool, int, float, str)) else json.dumps(str(value))


def _plain(one: Named, values: Settings) -> object:
    value = shown(one.field, values.value(one.joined))
    return value if isinstance(value, (bool, int, float)) else str(value)


def _table(rows: list[dict[str, object]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("variable", "value", "source"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        given = row["source"] != "default"
        cells = variable(str(row["name"])), _text(row["value"]), str(row["source"])
        table.add_row(*cells, style="bold" if given else "dim")
    return table


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
