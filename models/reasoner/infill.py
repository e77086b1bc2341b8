"""Where a user's masked slots stand: after the history, and between observed behaviors where the log has gaps.

Owns the placing. Must not know the network, nor items: it sees times, and answers positions. What lies between two
observed events is inferred from both sides, since a block is read bidirectionally.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.reasoner.sequences import Ints


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """The block of one user: its last `observed` events and its slots, interleaved.

    `slots` (S,) and `events` (observed,) are positions in the block, both ascending; together they are all of it.
    """

    slots: Ints
    events: Ints

    @property
    def observed(self) -> int:
        """How many of the history's last events stand in the block; the others are its prefix."""
        return len(self.events)


def layout(times: Sequence[int] | Ints, slots: int, between: int, tail: int) -> SlotLayout:
    """Place `slots` slots, `between` of them among the last `tail` events, the others after them.

    `times` (L,) are the events' times in any unit, oldest first. A gap gets slots in proportion to its length, by
    largest remainder, the newer gap first among equals. Where there is no gap in time, all slots stand at the end.
    """
    if not 0 <= between <= slots:
        raise ValueError(f"between must lie in 0..{slots}, got {between}")
    newest = np.asarray(times, dtype=np.int64)[-tail:] if tail > 0 else np.zeros(0, dtype=np.int64)
    gaps = np.maximum(np.diff(newest), 0)
    if between == 0 or not gaps.any():
        return SlotLayout(np.arange(slots), np.zeros(0, dtype=np.int64))
    first = int(np.flatnonzero(gaps)[0])  # what stands before the first gap says no more than the prefix does
    gaps = gaps[first:]
    before = np.append(_shares(gaps, between), slots - between)  # slots after each event
    events = np.arange(len(before)) + np.concatenate([[0], np.cumsum(before)[:-1]])
    return SlotLayout(np.setdiff1d(np.arange(len(before) + slots), events), events)


def _shares(gaps: Ints, count: int) -> Ints:
    """`count` split over `gaps` in proportion to their lengths."""
    exact = count * gaps / gaps.sum()
    shares: Ints = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - shares)[::-1], kind="stable")[: count - int(shares.sum())]
    shares[len(gaps) - 1 - order] += 1
    return shares
