"""A shop in which every item has one successor, in files: what was last decides what is next, popularity nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

KINDS = ("tea", "garden", "school", "baby")
PER_KIND = 12


def write(folder: Path, *, users: int = 120, longest: int = 11, seed: int = 0) -> tuple[Path, Path]:
    """events and items as JSON lines. A user walks round one kind's circle; some go on to the next kind.

    One item in the file is no product, and one event is a return: neither may count.
    """
    rng = np.random.default_rng(seed)
    items = [
        {
            "item_id": f"i{number:02}",
            "title": f"{KINDS[number // PER_KIND]} thing {number}",
            "category": [KINDS[number // PER_KIND]],
            "attributes": json.dumps({"first_seen": str(number)}),
        }
        for number in range(len(KINDS) * PER_KIND)
    ]
    items.append(
        {"item_id": "post", "title": "POSTAGE", "category": [], "attributes": json.dumps({"is_product": False})}
    )
    events = []
    for user in range(users):
        kind, place, at = int(rng.integers(len(KINDS))), int(rng.integers(PER_KIND)), int(rng.integers(100_000))
        for _ in range(int(rng.integers(6, longest + 1))):
            events.append(_event(user, f"i{kind * PER_KIND + place:02}", at))
            place, at = (place + 1) % PER_KIND, at + 1 + int(rng.integers(2_000))
        if user % 2:
            for step in range(longest - 5):
                events.append(_event(user, f"i{(kind + 1) % len(KINDS) * PER_KIND + step:02}", at + step + 1))
    events.append(_event(1, "post", 5))
    events.append(_event(1, "i00", 6) | {"event_type": "return"})
    events.append(_event(1, "i00", 7) | {"value": -1.0})
    files = folder / "events.jsonl", folder / "items.jsonl"
    for file, rows in zip(files, (events, items), strict=True):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files


def _event(user: int, item_id: str, at: int) -> dict[str, str | int | float]:
    return {"user_id": f"u{user}", "item_id": item_id, "event_type": "purchase", "timestamp": at, "value": 1.0}
