"""One trial: a load on its way while something is hurt, and what came of all of it.

Owns the order: send, wait, audit, a row of the table. Must not hurt anything.
"""

from __future__ import annotations

from typing import Any

from tests.faults.audit import Findings, audit
from tests.faults.load import Load, Sender
from tests.faults.report import ROWS, Row, told
from tests.faults.world import World

ITEMS, EVENTS, USERS = 3_000, 300_000, 3_000


class Trial:
    """A load that is being sent; `recovery` is for the seconds that each fault cost."""

    def __init__(
        self,
        world: World,
        *,
        seed: int,
        rate: float,
        items: int = ITEMS,
        events: int = EVENTS,
        users: int = USERS,
    ) -> None:
        """Begin to send, `rate` records a second while faults strike."""
        self.world = world
        self.load = Load(world.settings, items=items, events=events, users=users, seed=seed)
        self.sender = Sender(world.settings, self.load.records, rate=rate)
        self.recovery: list[float] = []

    def finish(self, *, refreshed: bool = True) -> None:
        """Send the rest as fast as it goes, and wait until all of it is worked on."""
        self.sender.hurry()
        self.bad = self.sender.finish()
        self.world.settle(refreshed=refreshed)

    def audit(self, fault: str, tries: int, **options: Any) -> Findings:
        """Look everything up, add the row to the table, fail where anything is lost; `options` are `audit`'s."""
        found = audit(self.world.settings, self.world.client, self.load, self.bad, **options)
        ROWS.append(Row.of(fault, told(self.load), tries, found, self.recovery))
        assert found.clean, str(found)
        return found
