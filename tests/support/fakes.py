"""Stand-ins that let the core run without servers or a wall clock.

Redis has none: `valkey` of conftest.py is a real server and up in 0.1 s. The broker's and the language model's are in
`fakes_broker.py` and `fakes_llm.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

NOW_MS = 1_700_000_000_000


@dataclass
class FakeClock:
    """Epoch milliseconds that pass only when told to; call it as any clock of the house."""

    now_ms: int = NOW_MS

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, seconds: float) -> int:
        """Let time pass; answers the new time."""
        self.now_ms += round(1_000 * seconds)
        return self.now_ms
