"""How dead letters look: counted by what went wrong, one whole, and what became of a command.

Owns presentation only. Whatever a stranger wrote is shown without what a terminal would obey.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from schemas.codec import Codec, DecodeError
from streams.jobs.dead_letters.read import StoredDeadLetter
from streams.kafka.subjects import contract_of
from streams.kafka.topics import Topics

_SHOWN_BYTES = 2_048


class Groups:
    """Counts of dead letters by topic, reason and stage, each record once a lane."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._seen: set[tuple[Any, str]] = set()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The groups, the most frequent first."""

        def order(row: dict[str, Any]) -> tuple[Any, ...]:
            return -row["dead_letters"], row["topic"], row["reason"], row["stage"]

        return sorted(self._rows.values(), key=order)

    @property
    def records(self) -> int:
        """How many records the dead letters are about."""
        return len({position for position, _ in self._seen})

    def add(self, dead_letter: StoredDeadLetter) -> None:
        """Count one; a second dead letter of the same record and lane is the same."""
        if (dead_letter.position, dead_letter.lane) in self._seen:
            return
        self._seen.add((dead_letter.position, dead_letter.lane))
        name = dead_letter.record.topic, dead_letter.reason, dead_letter.stage
        timestamp = dead_letter.failed_ms
        row = self._rows.setdefault(
            name,
            {
                **dict(zip(("topic", "reason", "stage"), name, strict=True)),
                "dead_letters": 0, "first_ms": timestamp, "last_ms": timestamp, "example": str(dead_letter.position),
            },
        )  # fmt: skip
        row["dead_letters"] += 1
        row["first_ms"], row["last_ms"] = min(row["first_ms"], timestamp), max(row["last_ms"], timestamp)


def show_groups(groups: Groups, as_json: bool, *, dry_run: str = "") -> None:
    """The groups as a table; for a dry run, what would happen to their records."""
    rows = groups.rows
    if as_json:
        click.echo(json.dumps({"records": groups.records, "groups": rows, "execute": False}))
        return
    if not rows:
        click.echo("No dead letters" + (" match." if dry_run else "."))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("Topic", "Reason", "Stage", "Dead letters", "When, UTC", "Example"):
        table.add_column(name, justify="right" if name == "Dead letters" else "left", overflow="fold")
    for row in rows:
        table.add_row(
            row["topic"], row["reason"], row["stage"], f"{row['dead_letters']:,}",
            span(row["first_ms"], row["last_ms"]), row["example"],
        )  # fmt: skip
    Console(highlight=False).print(table)
    if dry_run:
        click.echo(f"{groups.records:,} records would be {dry_run}. Next: the same with --execute")
    else:
        click.echo(f"Next: freshet dlq show {rows[0]['example']}")


def show_dead_letter(dead_letter: StoredDeadLetter, codec: Codec, topics: Topics, as_json: bool) -> None:
    """One dead letter with everything that is known of it."""
    row = dead_letter_row(dead_letter, codec, topics)
    if as_json:
        click.echo(json.dumps(row))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in row.items():
        if value not in ("", None, [], {}):
            shown = timestamp(value) if name.endswith("_ms") else _cell(value)
            table.add_row(name, shown)
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print()


def dead_letter_row(dead_letter: StoredDeadLetter, codec: Codec, topics: Topics) -> dict[str, Any]:
    """The facts of a dead letter, as JSON; `record` is the decoded value, if it decodes, and `value_hex` its bytes."""
    one = dead_letter.content
    where = {
        "position": str(dead_letter.position),
        "dead_letter": f"{dead_letter.record.partition}/{dead_letter.record.offset}",
    }
    if one is None:
        return {
            **where,
            "topic": dead_letter.record.topic,
            "reason": dead_letter.reason,
            "value_hex": _hex(dead_letter.record.value),
        }
    return {
        **where,
        "reason": one.reason,
        "stage": one.stage,
        "attempt": one.attempt,
        "exception": one.exception,
        "message": one.message,
        "schema_id": one.schema_id,
        "failed_ms": one.failed_time,
        "record_ms": one.timestamp,
        "key": _text(one.key),
        "headers": {header.name: _text(header.value) for header in one.headers},
        "record": decoded(topics, one.topic, one.value, codec),
        "value_bytes": None if one.value is None else len(one.value),
        "value_hex": _hex(one.value),
        "output": one.output,
    }


def decoded(topics: Topics, topic: str, value: bytes | None, codec: Codec) -> dict[str, Any] | None:
    """The value as the record its topic holds, None where it is none."""
    kind: Any = contract_of(topics, topic)
    if value is None or kind is None:
        return None
    try:
        return {name: _plain(part) for name, part in asdict(codec.decode(kind, value)).items()}
    except DecodeError:
        return None


def show_done(counts: dict[str, int], as_json: bool) -> None:
    """What became of a command."""
    if as_json:
        click.echo(json.dumps({**counts, "execute": True}))
        return
    click.echo(", ".join(f"{count:,} {what}" for what, count in counts.items()) + ". Next: freshet dlq list")


def timestamp(ms: int) -> str:
    """A moment as people write it, UTC; one that no calendar has as its number."""
    try:
        return datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return str(ms)


def span(first_ms: int, last_ms: int) -> str:
    """From when to when, to the minute, short enough for a column; the day once where it is one day."""
    days, minutes = zip(*(timestamp(ms)[5:16].partition("T")[::2] for ms in (first_ms, last_ms)), strict=True)
    if days[0] == days[1]:
        return f"{days[0]} {minutes[0]}" if minutes[0] == minutes[1] else f"{days[0]} {minutes[0]}-{minutes[1]}"
    return f"{days[0]} {minutes[0]} - {days[1]} {minutes[1]}"


def harmless(text: str) -> str:
    """`text` with everything that is no printable character, line breaks too, in its escaped form."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "replace").decode() for one in text)


def _cell(value: Any) -> str:
    return harmless(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode(errors="backslashreplace")


def _hex(raw: bytes | None) -> str | None:
    if raw is None:
        return None
    return raw[:_SHOWN_BYTES].hex() + ("…" if len(raw) > _SHOWN_BYTES else "")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, float) and value != value:
        return "NaN"
    return value
