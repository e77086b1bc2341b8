"""A small shop in files: kinds of things bought together, half of them new, with titles that tell the kind or not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

DAY_MS = 86_400_000
KINDS = ("tea", "garden", "school", "baby")
PER_KIND = 30


def write(folder: Path, *, opaque: bool = False, seed: int = 0) -> tuple[Path, Path, Path]:
    """items, events and knowledge as JSON lines; every third item is first bought after day 60.

    `opaque` titles are numbers: only the knowledge names the kind.
    """
    rng = np.random.default_rng(seed)
    items, knowledge = [], []
    for number in range(PER_KIND * len(KINDS)):
        kind = KINDS[number % len(KINDS)]
        title = f"ART {number}" if opaque else f"{kind} {kind} thing {number}"
        items.append({"item_id": f"i{number}", "title": title, "attributes": json.dumps({"first_seen": str(number)})})
        knowledge.append(
            {
                "item_id": f"i{number}",
                "event_time": 0,
                "computed_time": 0,
                "fingerprint": "f",
                "summary": f"{kind} {kind} {kind}",
                "claims": [{"kind": "complement", "name": "with", "value": kind, "inferred": True}],
            }
        )
    events = []
    for basket in range(1_200):
        day = int(rng.integers(0, 90))
        mine = [n for n in range(len(items)) if n % len(KINDS) == basket % len(KINDS) and (n % 3 or day >= 60)]
        for number in rng.permutation(mine)[:5]:
            time = day * DAY_MS
            events.append(
                {"user_id": f"u{basket % 40}", "item_id": f"i{number}", "event_type": "purchase", "timestamp": time}
            )
    events.append({"user_id": "u1", "item_id": "i1", "event_type": "return", "timestamp": 0})
    files = tuple(folder / f"{name}.jsonl" for name in ("items", "events", "knowledge"))
    for file, rows in zip(files, (items, events, knowledge), strict=True):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files  # type: ignore[return-value]
