"""How many LLM tokens all workers together may still spend this hour; kept in Redis, so that restarts change nothing.

Owns the protocol around the budget; `token_budget.lua` does the arithmetic on the server, by its clock. Must not know
what a call is for, nor how many tokens it will take: the caller estimates, and says afterwards what it was.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from freshet.connect import Client, keys_for
from store.functions import library


@dataclass(frozen=True, slots=True)
class BudgetState:
    """The hour that runs, in tokens: `spent` for good, `held` for calls under way, `limit` of both (0: none set)."""

    spent: int
    held: int
    limit: int
    resets_in_s: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """The answer to one request for `tokens`: whether it was admitted, under which id, and the budget afterwards."""

    id: str
    tokens: int
    admitted: bool
    state: BudgetState

    @property
    def retry_after_s(self) -> float:
        """When asking again makes sense: soon where calls under way hold what is left, else with the next hour."""
        fits = self.state.spent + min(self.tokens, self.state.limit) <= self.state.limit
        return min(1.0, self.state.resets_in_s) if fits else self.state.resets_in_s


class TokenBudget:
    """The budget of one key prefix; thread-safe, every call is one round trip and may be repeated after an error.

    1. `reserve` an estimate before a call; where it is not admitted, wait;
    2. `settle` with what the call used, 0 where it used nothing;
    3. a reservation that nobody settles within `lease_s` (its worker died) is let go.

    `limit`: tokens an hour, above 0. Hours are those of the server's clock.
    """

    def __init__(self, client: Client, prefix: str = "f", *, limit: int, lease_s: float = 600.0) -> None:
        if limit <= 0:
            raise ValueError(f"limit is {limit}, wanted a positive number of tokens")
        self._redis = client
        self._keys = _keys(client, prefix)
        self._limit = limit
        self._lease_ms = max(1, round(1_000 * lease_s))

    def reserve(self, tokens: int) -> Reservation:
        """Set `tokens` aside for one call, if there is room."""
        name = uuid.uuid4().hex
        answer = self._call("reserve", name, max(0, tokens), self._limit, self._lease_ms)
        return Reservation(name, tokens, bool(answer[0]), _state(answer))

    def settle(self, reservation: Reservation, used: int) -> BudgetState:
        """End a reservation with the tokens it used; a second time counts for nothing."""
        return _state(self._call("settle", reservation.id, max(0, used)))

    def _call(self, function: str, *args: Any) -> Any:
        [answer] = library("token_budget").call(self._redis, function, [(self._keys, args)])
        return answer


def budget_state(client: Client, prefix: str = "f") -> BudgetState:
    """The budget as its workers left it, for whoever only looks; the limit is the one they were last told."""
    [answer] = library("token_budget").call(client, "look", [(_keys(client, prefix), ())])
    return _state(answer)


def _keys(client: Client, prefix: str) -> list[str]:
    keys = keys_for(client, prefix)
    return [keys.budget(), keys.budget_held()]


def _state(answer: Sequence[Any]) -> BudgetState:
    _, spent, held, limit, resets_in_ms = map(int, answer)
    return BudgetState(spent, held, limit, resets_in_ms / 1_000)
