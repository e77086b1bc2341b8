"""What a person wants to see at the end: items before and after, users beyond their log, a ranking.

Owns the choice of examples and their layout. Every number and vector is read back by `FeatureReader`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from freshet import FeatureReader, ItemTier, UserTier
from freshet.records import Item
from local.demo.data import DemoData
from local.demo.watch import Seen
from processors.items.knowledge_text import item_text
from store.histories import HistoryStore

ITEMS_SHOWN, USERS_SHOWN, NEAREST, HISTORY_SHOWN, BEHAVIORS_SHOWN, TOP = 3, 2, 5, 8, 8, 10
CANDIDATES = 500
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Counts:
    """What Redis holds at the end, as a ranker sees it."""

    items_text: int
    items_knowledge: int
    users_diffusion: int
    version: str

    @property
    def complete(self) -> bool:
        """Whether every part of the system has left something a ranker can read."""
        return min(self.items_text + self.items_knowledge, self.items_knowledge, self.users_diffusion) > 0


class Summary:
    """The closing pages for one run; `known_ids` are the items neighbors are looked for among, beside the new ones."""

    def __init__(
        self, data: DemoData, reader: FeatureReader, histories: HistoryStore, known_ids: Sequence[str], seen: Seen
    ) -> None:
        self._data = data
        self._reader = reader
        self._histories = histories
        self._seen = seen
        self._titles = {item.item_id: item for item in (*data.known, *data.new)}
        self._popular = list(known_ids)
        new_ids = [item.item_id for item in data.new]
        self._new_ids = [item_id for item_id, had in zip(new_ids, seen.had_text, strict=True) if had]
        self._pool = [*known_ids, *self._new_ids]
        self._matrix = reader.items(self._pool).item_matrix  # (P, dims)

    def show(self, console: Console, counts: Counts) -> None:
        """Print all of it."""
        for item, before in self._examples():
            console.print(self._item(item, before))
        for user_id in self._active_users():
            console.print(self._user(user_id))
        console.print(closing(counts))

    def _examples(self) -> list[tuple[Item, Vectors]]:
        """New items with knowledge whose text-tier vector was seen, most bought first, titles all different."""
        bought = self._data.stream["item_id"].to_pylist()
        purchases = dict(zip(*np.unique(bought, return_counts=True), strict=True))
        ready = (self._seen.item_tiers == ItemTier.KNOWLEDGE) & self._seen.had_text
        rows = sorted(np.flatnonzero(ready), key=lambda row: -purchases.get(self._data.new[row].item_id, 0))
        chosen: dict[str, tuple[Item, Vectors]] = {}
        for row in rows:
            item = self._data.new[row]
            chosen.setdefault(item.title, (item, self._seen.text_vectors[row]))
        return list(chosen.values())[:ITEMS_SHOWN]

    def _item(self, item: Item, before: Vectors) -> Panel:
        after = self._reader.items([item.item_id]).item_matrix[0]
        found = self._reader.knowledge(item.item_id)
        known = Table.grid(padding=(0, 2))
        known.add_column(style="dim", no_wrap=True)
        known.add_column()
        if found is not None:
            known.add_row("summary", found.document["summary"])
            by_kind: dict[str, list[str]] = {}
            for claim in found.document["claims"]:
                shown = f"{claim['value']} ({claim['quote']!r})" if claim["quote"] else claim["value"]
                by_kind.setdefault(claim["kind"], []).append(shown)
            for kind, values in by_kind.items():
                known.add_row(kind, ", ".join(values))
        near = Table(box=None, expand=True, padding=(0, 2, 0, 0), header_style="dim")
        near.add_column("nearest by its text", ratio=1)
        near.add_column("nearest with its knowledge", ratio=1)
        for row in zip(self._nearest(item.item_id, before), self._nearest(item.item_id, after), strict=True):
            near.add_row(*row)
        title = f"new item {item.item_id}"
        return Panel(Group(Text(item_text(item), style="bold"), known, Text(), near), title=title, title_align="left")

    def _nearest(self, item_id: str, vector: Vectors) -> list[str]:
        """The nearest items of other names, with their cosine."""
        cosines = self._matrix @ vector
        shown: dict[str, str] = {}
        own = self._name(item_id)
        for row in np.argsort(-cosines):
            name = self._name(self._pool[row])
            if name != own and name not in shown:
                shown[name] = f"{cosines[row]:.2f}  {name}"
            if len(shown) == NEAREST:
                break
        return list(shown.values())

    def _active_users(self) -> list[str]:
        """The users with most events in the stream that the diffusion model has inferred for."""
        users, counts = np.unique(self._data.stream["user_id"].to_pylist(), return_counts=True)
        busy = [str(user) for user in users[np.argsort(-counts, kind="stable")]]
        tiers = {user: self._reader.users([user])[0].tier for user in busy[: 10 * USERS_SHOWN]}
        return [user for user, tier in tiers.items() if tier == UserTier.DIFFUSION][:USERS_SHOWN]

    def _user(self, user_id: str) -> Panel:
        [history] = self._histories.load([user_id])
        fresh = self._new_ids[-CANDIDATES // 2 :]
        candidates = [*fresh, *self._popular[: CANDIDATES - len(fresh)]]
        read = self._reader.read(user_id, candidates)
        scores = read.item_matrix @ (read.user.log_vector + read.user.inferred_vector)
        table = Table(box=None, expand=True, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column(f"newest of {len(history.item_ids)} events", ratio=1)
        table.add_column("inferred, with confidence", ratio=1)
        table.add_column(f"top {TOP} of {len(candidates)} by dot product", ratio=1)
        recent = [self._name(item_id) for item_id in reversed(history.item_ids[-HISTORY_SHOWN:])]
        inferred = [f"{b.confidence:.3f}  {self._name(b.item_id)}" for b in read.user.behaviors[:BEHAVIORS_SHOWN]]
        new = set(fresh)
        best: dict[str, str] = {}  # a shop has many products of one name: the best of each says enough
        for row in np.argsort(-scores):
            name = self._name(candidates[row]) + (" (new)" if candidates[row] in new else "")
            best.setdefault(name, f"{scores[row]:.2f}  {name}")
            if len(best) == TOP:
                break
        for row_of in zip_longest(recent, inferred, best.values(), fillvalue=""):
            table.add_row(*row_of)
        title = f"user {user_id}, features {read.user.age_seconds:.0f} s old, version {read.version}"
        return Panel(table, title=title, title_align="left")

    def _name(self, item_id: str) -> str:
        item = self._titles.get(item_id)
        if item is None:
            return item_id
        return " · ".join(part.lower() for part in (item.title, *item.category[-1:]))


def closing(counts: Counts) -> Panel:
    """The counts, read back from Redis, and what to try next."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="bold")
    table.add_column()
    table.add_row(f"{counts.items_text + counts.items_knowledge:,}", "new items with a vector")
    table.add_row(f"{counts.items_knowledge:,}", "of them with knowledge from the language model")
    table.add_row(f"{counts.users_diffusion:,}", "users refreshed by the diffusion model")
    hint = Text.from_markup(
        "Your own data: [bold]freshet demo --items FILE --events FILE[/]\n"
        "A stack to keep: [bold]freshet up[/], [bold]freshet topics create[/], [bold]freshet worker[/]"
    )
    title = f"in Redis, version {counts.version}, as a ranker reads it"
    return Panel(Group(table, Text(), hint), title=title, title_align="left", border_style="cyan")
