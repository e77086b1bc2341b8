"""What a person sees while the demo runs: one live panel. Owns layout only; it is told every number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Freshness:
    """Seconds from event time to Redis, over everything published so far."""

    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment of the stream; `freshness` by what was published, `lag` in records by lane."""

    elapsed_s: float
    phase: str
    events_sent: int
    events_total: int
    items_sent: int
    items_text: int
    items_knowledge: int
    users_diffusion: int
    users_fallback: int
    dead_letters: int
    freshness: Mapping[str, Freshness] = field(default_factory=dict)
    lag: Mapping[str, int] = field(default_factory=dict)


def render(now: Snapshot) -> RenderableType:
    """The live panel for one snapshot."""
    done = now.events_sent / max(1, now.events_total)
    head = Table.grid(expand=True, padding=(0, 1))
    head.add_column(width=22)
    head.add_column(ratio=1)
    head.add_column(justify="right", width=30)
    head.add_row(
        Text(now.phase, style="bold"),
        ProgressBar(total=1.0, completed=done),
        f"{now.events_sent:,} of {now.events_total:,} events",
    )
    columns = Table.grid(expand=True, padding=(0, 2))
    for ratio in (6, 8, 5):
        columns.add_column(ratio=ratio)
    columns.add_row(_counts(now), _freshness(now), _lag(now))
    return Panel(
        Group(head, Text(), columns),
        title="Freshet",
        subtitle=f"{now.elapsed_s:.0f} s",
        border_style="cyan",
        padding=(1, 2),
    )


def _counts(now: Snapshot) -> Table:
    table = _block("in Redis", "count")
    table.add_row("new items announced", f"{now.items_sent:,}")
    table.add_row("  with a vector", f"{now.items_text + now.items_knowledge:,}")
    table.add_row("  with LLM knowledge", f"{now.items_knowledge:,}")
    table.add_row("users, diffusion", f"{now.users_diffusion:,}")
    table.add_row("users, fallback", f"{now.users_fallback:,}")
    table.add_row("dead letters", Text(f"{now.dead_letters:,}", style="red" if now.dead_letters else ""))
    return table


def _freshness(now: Snapshot) -> Table:
    table = _block("event to Redis", "p50", "p99")
    for what, value in now.freshness.items():
        table.add_row(what, duration(value.p50_s), duration(value.p99_s))
    return table


def _lag(now: Snapshot) -> Table:
    table = _block("lane", "lag")
    for lane, records in now.lag.items():
        table.add_row(lane, f"{records:,}")
    return table


def _block(title: str, *numbers: str) -> Table:
    table = Table(box=None, expand=True, header_style="dim", padding=(0, 1), show_edge=False)
    table.add_column(title)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def duration(seconds: float) -> str:
    """A short human duration: 83 ms, 4.2 s, 3.1 min."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
