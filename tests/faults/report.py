"""The table of faults, tries and losses that a run prints.

Owns its columns. Must not decide whether a test has passed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
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
    dead_letters: int
    repeats: int
    recovery_s: Sequence[float] = field(default_factory=tuple)

    @classmethod
    def of(cls, fault: str, load: str, tries: int, found: Findings, recovery_s: Sequence[float] = ()) -> Row:
        """The row of an audit."""
        return cls(
            fault, load, tries, found.checked, len(found.lost), len(found.older), found.dead_letters, found.repeats,
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
        "| fault | load | tries | keys checked | lost | older over newer | dead letters | repeated dead letters "
        "| recovery s, p50 / max |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = f"{statistics.median(row.recovery_s):.1f} / {max(row.recovery_s):.1f}" if row.recovery_s else ""
        lines.append(
            f"| {row.fault} | {row.load} | {row.tries} | {row.checked:,} | {row.lost} | {row.older} "
            f"| {row.dead_letters:,} | {row.repeats:,} | {times} |"
        )
    return "\n".join(lines)


def keep(rows: Sequence[Row], file: Path) -> None:
    """Write the rows as JSON, for the page."""
    file.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def page(rows: Sequence[Row], measured: str) -> str:
    """`docs/reports/faults.md`, whole; `measured` is the day and the commit."""
    return f"""# Faults

<!-- made by make test-faults && python -m tests.faults.report .faults.json -->

**Measured** {measured} · `make test-faults`

What is lost when parts fail under load. On two cores, with the real Apache Kafka and Valkey and workers as processes
(fake encoder and language model; the reasoner is the co-occurrence fallback). Afterwards every input is looked up by
its key: each item must have its newest state in Redis, vector and knowledge; each deleted item must be deleted; each
user must have the newest events and the features made from them; each erased user must have nothing; each bad record
must have its dead letter, byte by byte. `tests/faults/test_audit.py` shows that the audit finds what is lost.

{table(rows)}

**lost**: keys without their result. **older over newer**: keys whose state is not the newest that was sent.
**repeated dead letters**: a dead letter sent again because the worker died before its acknowledgement; its position
identifies it. **recovery**: from the end of the fault until everything that was in Kafka when it struck was
acknowledged (for Valkey: until the rebuild was done). After `kill -9` it includes Kafka's session timeout, 6 s here
(`FRESHET_KAFKA__SESSION_TIMEOUT_S`, 15 s by default).

## Load

While faults strike, 1,500 to 3,000 records a second arrive (in the row of the language model: 100); the rest is sent
afterwards, as fast as possible. A user looks at 40 items, one event in fifty is sent twice, a third of the items
change, some get an older state after a newer one or are deleted, one user in a hundred is erased, and one record in a
hundred is invalid.

## What each row means

Recovery of workers is counted from the kill, of a single broker from when it answers again, of a leader from its
kill, of the full disk from when space was free. A killed broker's page cache survives: this is a dead process, not a
power failure. The audit compares event times and quality levels of items, not the content of vectors; `freshet
rebuild --verify`, with which the row of Valkey ends, compares bytes.

The network is cut in a network namespace, the full disk is a small tmpfs, and three brokers replicate with
`min.insync.replicas=2`. The clock that jumps is the worker's own in Python, not that of libraries in C. A worker whose
clock is an hour slow takes present records for future ones and dead-letters them (`FRESHET_HISTORY__MAX_FUTURE_S`);
here event times are an hour old.
"""


def commit() -> str:
    """The commit of this checkout, in seven digits."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    written = Path(__file__).parents[2] / "docs" / "reports" / "faults.md"
    rows = [Row(**{**row, "recovery_s": tuple(row["recovery_s"])}) for row in json.loads(Path(sys.argv[1]).read_text())]
    written.write_text(page(rows, f"{date.today().isoformat()} · commit `{commit()}`"), encoding="utf-8")
