"""`freshet features get item|user ID`: what the ranker would get, as a person reads it or as JSON.

Owns presentation only; `freshet.FeatureReader` is asked, as a ranker asks it.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

import click
import redis
from rich.console import Console
from rich.table import Table

from freshet import FeatureReader
from freshet.records import ItemTier, UserTier
from local.stack.state import resolve
from streams.settings import Settings

SHOWN_VALUES = 6


@click.group()
def features() -> None:
    """Show what a ranker would get."""


@features.group()
def get() -> None:
    """Read one entity of the active version."""


@get.command()
@click.argument("item_id")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON, vectors in full.")
def item(item_id: str, as_json: bool) -> None:
    """Vector, tier, age and knowledge of ITEM_ID."""
    with _reader() as reader:
        try:
            read = reader.items([item_id])
            knowledge = reader.knowledge(item_id)
        except redis.RedisError as error:
            _unreachable(error)
    answer: dict[str, Any] = {
        "item_id": item_id,
        "present": bool(read.present[0]),
        "version": read.version,
    }
    if answer["present"]:
        answer |= {
            "tier": ItemTier(int(read.tier[0])).name.lower(),
            "age_seconds": round(float(read.age_seconds[0]), 3),
            "vector": read.item_matrix[0].tolist(),
            "knowledge": knowledge.document if knowledge else None,
        }
    _show(answer, as_json)


@get.command()
@click.argument("user_id")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON, vectors in full.")
def user(user_id: str, as_json: bool) -> None:
    """Vectors, age and inferred behaviors of USER_ID."""
    with _reader() as reader:
        try:
            [read] = reader.users([user_id])
        except redis.RedisError as error:
            _unreachable(error)
    answer: dict[str, Any] = {"user_id": user_id, "present": read.present, "version": read.version}
    if read.present:
        answer |= {
            "tier": UserTier(read.tier).name.lower(),
            "age_seconds": round(read.age_seconds, 3),
            "history_length": read.history_length,
            "degraded": read.degraded,
            "log_vector": read.log_vector.tolist(),
            "inferred_vector": read.inferred_vector.tolist(),
            "behaviors": [{"item_id": b.item_id, "confidence": round(b.confidence, 4)} for b in read.behaviors],
        }
    _show(answer, as_json)


def _reader() -> FeatureReader:
    settings = resolve(Settings.load(), "redis")
    # A person waits longer than a ranker, and the server may be warming up.
    return FeatureReader(
        settings.redis.url, settings.key_prefix, dims=settings.vectors.dims, timeout_s=5.0, raise_errors=True
    )


def _unreachable(error: redis.RedisError) -> NoReturn:
    raise click.ClickException(f"Redis does not answer ({error}); is FRESHET_REDIS right, or `freshet up` running?")


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer))
    else:
        Console(highlight=False).print(_table(answer))
    if not answer["present"]:
        what = "no version is active yet: start `freshet worker`" if not answer["version"] else "nothing is stored"
        click.echo(f"freshet: {what}", err=True)
        raise SystemExit(1)


def _table(answer: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in answer.items():
        table.add_row(name, _cell(name, value))
    return table


def _cell(name: str, value: Any) -> str:
    if name.endswith("vector"):
        return _vector(value)
    if name == "knowledge":
        return _knowledge(value) if value else "none yet"
    if name == "behaviors":
        return "\n".join(f"{b['confidence']:.3f}  {b['item_id']}" for b in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


def _vector(values: list[float]) -> str:
    head = ", ".join(f"{value:+.3f}" for value in values[:SHOWN_VALUES])
    return f"[{head}, … {len(values)} values]"


def _knowledge(document: dict[str, Any]) -> str:
    claims = [f"{c['kind']}: {c['name']} = {c['value']}" for c in document["claims"]]
    return "\n".join([document["summary"], *claims])
