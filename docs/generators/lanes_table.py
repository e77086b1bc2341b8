"""The table of lanes on the architecture page, between two markers, made from `streams.lanes.table`.

Owns the columns. Must not be needed by anything but the page and its test.
"""

from __future__ import annotations

from streams.kafka.topics import Topics
from streams.lanes.table import LANES, LaneSpec
from streams.settings import Settings

BEGIN, END = "<!-- lanes: made by python -m tests.docs.test_lanes_table -->", "<!-- /lanes -->"


def table() -> str:
    """The lanes as a Markdown table."""
    lines = ["| lane | what it does | reads | writes | asks | without it |", "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *map(_row, LANES.values())])


def updated(page: str) -> str:
    """`page` with the table as it is now between its markers; raises ValueError where a marker is missing."""
    before, after = page.index(BEGIN) + len(BEGIN), page.index(END)
    return f"{page[:before]}\n{table()}\n{page[after:]}"


def _row(spec: LaneSpec) -> str:
    names = {"kafka": "Kafka", "redis": "Redis", "llm": "LLM"}
    cells = (
        f"`{spec.name}`",
        spec.about,
        ", ".join(map(_place, spec.reads)),
        ", ".join(map(_place, spec.writes)),
        ", ".join(names.get(need, need) for need in spec.needs),
        spec.without,
    )
    return f"| {' | '.join(cells)} |"


def _place(name: str) -> str:
    """A topic by its name, the version spelled out; a part of Redis in words."""
    kind, _, rest = name.partition(":")
    if rest:
        return f"{rest.replace('-', ' ')} ({kind.capitalize()})"
    return f"`{getattr(Topics(Settings.load({}), 'VERSION'), name)}`"
