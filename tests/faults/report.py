"""The table of faults, tries and losses that a run prints.

Owns its columns. Must not decide whether a test has passed.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults.audit import Findings
from tests.faults.load import Load


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of fault: what was sent, how often it struck, and what came of it.

    `recovery_s`: seconds, each time, from the fault's end until all that was in Kafka when it struck was acknowledged.
    """

    fault: str
    load: str
    tries: int
    checked: int
    lost: int
    older: int
    letters: int
    repeats: int
    recovery_s: Sequence[float] = field(default_factory=tuple)

    @classmethod
    def of(cls, fault: str, load: str, tries: int, found: Findings, recovery_s: Sequence[float] = ()) -> Row:
        """The row of an audit."""
        return cls(
            fault, load, tries, found.checked, len(found.lost), len(found.older), found.letters, found.repeats,
            tuple(round(one, 1) for one in recovery_s),
        )  # fmt: skip


def told(load: Load) -> str:
    """How much was sent."""
    parts = [f"{load.events:,} events" if load.events else "", f"{load.items:,} items" if load.items else ""]
    return ", ".join(part for part in parts if part)


ROWS: list[Row] = []
"""Of this run, in the order of the tests."""


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| fault | load | tries | keys checked | lost | older over newer | dead letters | repeated letters "
        "| recovery s, p50 / max |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = f"{statistics.median(row.recovery_s):.1f} / {max(row.recovery_s):.1f}" if row.recovery_s else ""
        lines.append(
            f"| {row.fault} | {row.load} | {row.tries} | {row.checked:,} | {row.lost} | {row.older} "
            f"| {row.letters:,} | {row.repeats:,} | {times} |"
        )
    return "\n".join(lines)


def keep(rows: Sequence[Row], file: Path) -> None:
    """Write the rows as JSON, for the page."""
    file.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
