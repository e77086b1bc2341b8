"""What the reader benchmark says: the figures of its scenes, goals, and how all that looks in a terminal.

Owns which ratio answers which goal. Must not measure.
"""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from benchmarks.rounds import Scene, Taken, ratio, rounded

FEAST = ("feast_packed_2", "feast_to_dict")
NAMES = {
    "bare": "bare redis-py",
    "sync": "FeatureReader",
    "sync_out": "  with out=",
    "bare_async": "bare redis.asyncio",
    "async": "AsyncFeatureReader",
    "cache": "  with a full cache",
    "cache_1s": "  with 1 s of cache",
    "feast_packed_2": "Feast, packed bytes",
    "feast_to_dict": "Feast, to_dict()",
}


def report(scenes: dict[str, Scene], conditions: dict[str, Any]) -> dict[str, Any]:
    """The figures; every one comes from the rounds."""
    alone, writer = scenes["alone"], scenes["writer"]
    ours = alone["sync"].summary()
    found: dict[str, Any] = {name: ours[name] for name in ("p50_ms", "p99_ms", "p999_ms")}
    found["bare_p50_ms"] = alone["bare"].summary()["p50_ms"]
    found |= dict.fromkeys(("feast_p50_ms", "feast_p99_ms", "ratio_to_feast", "ratio_to_feast_p99"))
    found["ratio_to_bare"] = ratio(alone["sync"], alone["bare"], 50)
    found["ratio_to_bare_p99"] = ratio(alone["sync"], alone["bare"], 99)
    if modes := [alone[way] for way in FEAST if way in alone]:
        best = min(modes, key=lambda taken: taken.summary()["p50_ms"])
        for q in (50, 99):
            found[f"feast_p{q}_ms"] = best.summary()[f"p{q}_ms"]
        found["ratio_to_feast"] = ratio(best, alone["sync"], 50)
        found["ratio_to_feast_p99"] = ratio(best, alone["sync"], 99)
    found["writer_p99_ms"] = writer["sync"].summary()["p99_ms"]
    found["goals"] = _goals(found, alone, scenes["cold"])
    found["scenes"] = {name: _summaries(scene) for name, scene in scenes.items()}
    found["conditions"] = conditions
    answer: dict[str, Any] = rounded(found)
    return answer


def _summaries(scene: Scene) -> dict[str, dict[str, float]]:
    def against(way: str) -> Taken:
        return scene["bare_async" if "async" in way and "bare_async" in scene else "bare"]

    return {
        way: taken.summary()
        | {"ratio_to_bare": ratio(taken, against(way), 50), "ratio_to_bare_p99": ratio(taken, against(way), 99)}
        for way, taken in scene.items()
    }


def _goals(found: dict[str, Any], alone: Scene, cold: Scene) -> list[dict[str, Any]]:
    """What was asked for, and whether it was reached; None where it was not measured."""
    asked = [
        ("read() over bare, cold CPU caches, p50", ratio(cold["sync"], cold["bare"], 50), "<=", 1.0),
        ("read() over bare, warm, p50", found["ratio_to_bare"], "<=", 0.85),
        ("read() with a warm local cache over bare, p50", ratio(alone["cache"], alone["bare"], 50), "<=", 0.85),
        ("read(), p99 in ms", found["p99_ms"], "<=", 2.0),
        ("read() beside the writer, p99 in ms", found["writer_p99_ms"], "<=", 2.0),
        ("Feast over read(), p50", found["ratio_to_feast"], ">=", 15.0),
        ("Feast over read(), p99", found["ratio_to_feast_p99"], ">=", 15.0),
    ]
    return [
        {
            "goal": goal,
            "is": value,
            "wanted": f"{sense} {limit:g}",
            "reached": None if value is None else value <= limit if sense == "<=" else value >= limit,
        }
        for goal, value, sense, limit in asked
    ]


def show(found: dict[str, Any], console: Console) -> None:
    """Scenes, goals, conditions; `x` is over bare redis-py, or over bare redis.asyncio where that ran."""
    facts = found["conditions"]
    titles = {
        "alone": "One client",
        "cold": "One client, the CPU's caches emptied before each request",
        "popular": "One client, candidates that fall off as 1 / rank",
        "clients": f"{facts['clients']} clients at once (processes; for asyncio tasks of one process)",
        "writer": f"One client while {facts['writes_per_s_reached']:,} items a second are refreshed "
        f"({facts['writes_per_s_wanted']:,} wanted)",
    }
    for scene, rows in found["scenes"].items():
        console.print(_scene(titles[scene], rows))
    console.print(_goal_table(found["goals"]))
    if not facts["feast"]:
        console.print("[yellow]Feast was left out (--no-feast).[/yellow]")
    lines = [f"[dim]{name.replace('_', ' ')}[/dim]  {value}" for name, value in facts.items()]
    console.print(Panel("\n".join(lines), title="Conditions", border_style="dim"))


def _scene(title: str, rows: dict[str, dict[str, float]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("who", min_width=27)
    for name in ("p50 ms", "p99 ms", "p99.9", "req/s", "x p50", "x p99"):
        table.add_column(name, justify="right", no_wrap=True)
    for way, row in rows.items():
        name = NAMES[way]
        if "hit_rate" in row:
            name += f" ({row['hit_rate']:.0%})"
        ratios = [f"{row[key]:.2f}" for key in ("ratio_to_bare", "ratio_to_bare_p99")]
        times = [f"{row[key]:.2f}" for key in ("p50_ms", "p99_ms", "p999_ms")]
        style = "bold green" if way in ("sync", "async") else ""
        table.add_row(name, *times, f"{row['requests_per_s']:,.0f}", *ratios, style=style)
    return table


def _goal_table(goals: list[dict[str, Any]]) -> Table:
    table = Table(title="Goals", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("goal", "is", "wanted", ""):
        table.add_column(name, justify="left" if name == "goal" else "right")
    verdicts = {True: "[green]reached[/green]", False: "[red]missed[/red]", None: "[yellow]not measured[/yellow]"}
    for one in goals:
        shown = "" if one["is"] is None else f"{one['is']:.3g}"
        table.add_row(one["goal"], shown, one["wanted"], verdicts[one["reached"]])
    return table
