"""How many LLM tokens all workers together may still spend this hour; kept in Redis, so that it outlives restarts.

Owns the protocol of the budget; `lua/token_budget.lua` does the arithmetic on the server, by its clock. Must not know
what a call is for, nor how many tokens it takes: the caller estimates first and reports the use afterwards.
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
    """The current hour, in tokens: `spent`, `held` for calls in flight, and the `limit` of their sum (0: none set)."""

    spent: int
    held: int
    limit: int
    resets_in_s: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """The result of one request for `tokens`: whether it was admitted, under which id, and the budget afterwards."""

    id: str
    tokens: int
    admitted: bool
    state: BudgetState

    @property
    def retry_after_s(self) -> float:
        """When to try again: soon if calls in flight hold what is left, else when the next hour begins."""
        # A request larger than the whole limit is admitted as if it were the limit, or it would wait forever.
        fits = self.state.spent + min(self.tokens, self.state.limit) <= self.state.limit
        return min(1.0, self.state.resets_in_s) if fits else self.state.resets_in_s


class TokenBudget:
    """The budget of one key prefix; thread-safe, every call is one round trip and may be repeated after an error.

    1. `reserve` an estimate before a call; where it is not admitted, wait;
    2. `settle` with what the call used, 0 where it used nothing;
    3. a reservation that nobody settles within `lease_s` (its worker died) expires.

    `limit`: tokens per hour, above 0. Hours are those of the server's clock.
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
        # The id is the caller's, so that repeating the call after a lost answer reserves once.
        name = uuid.uuid4().hex
        answer = self._call("reserve", name, max(0, tokens), self._limit, self._lease_ms)
        return Reservation(name, tokens, bool(answer[0]), _state(answer))

    def settle(self, reservation: Reservation, used: int) -> BudgetState:
        """End a reservation with the tokens it used; repeating it changes nothing."""
        return _state(self._call("settle", reservation.id, max(0, used)))

    def _call(self, function: str, *args: Any) -> Any:
        [answer] = library("token_budget").call(self._redis, function, [(self._keys, args)])
        return answer


def budget_state(client: Client, prefix: str = "f") -> BudgetState:
    """The budget without reserving anything; its limit is the one of the last `reserve`."""
    [answer] = library("token_budget").call(client, "look", [(_keys(client, prefix), ())])
    return _state(answer)


def _keys(client: Client, prefix: str) -> list[str]:
    keys = keys_for(client, prefix)
    return [keys.budget(), keys.budget_held()]


def _state(answer: Sequence[Any]) -> BudgetState:
    _, spent, held, limit, resets_in_ms = map(int, answer)
    return BudgetState(spent, held, limit, resets_in_ms / 1_000)
