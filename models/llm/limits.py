"""How many calls an endpoint gets at once, and how many tokens an hour: language models that wrap another one.

Owns the limit that follows the endpoint (additive increase, multiplicative decrease, as TCP does) and the admission of
calls by a budget. Must not know where a budget is kept, nor retry a call: its caller does.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from models.llm.client import (
    Completion,
    CompletionRequest,
    LanguageModel,
    LLMBusy,
    LLMTimeout,
    LLMUnavailable,
    WrappedModel,
)

log = logging.getLogger(__name__)

# An endpoint may ask for an hour; what is longer than this is asked again, as settings and quotas change meanwhile.
LONGEST_HOLD_S = 60.0
_BYTES_PER_TOKEN = 3.5  # of Qwen's tokenizer: English 4 to 4.5, Chinese 3 to 4; a little too many tokens is safe


class BudgetSpent(LLMUnavailable):
    """The token budget has no room for this call before `retry_after_s`: put it off, drop nothing."""


class Reserved(Protocol):
    """A budget's answer: whether the call is admitted, and when to ask again where it is not."""

    @property
    def admitted(self) -> bool: ...

    @property
    def retry_after_s(self) -> float: ...


R = TypeVar("R", bound=Reserved)


class Budget(Protocol[R]):
    """Tokens shared by all workers, such as `store.token_budget.TokenBudget`; both calls block for a round trip."""

    def reserve(self, tokens: int) -> R:
        """Set an estimate aside, if there is room."""
        ...

    def settle(self, reservation: R, used: int) -> Any:
        """Say what an admitted call used."""
        ...


class AdaptiveLimit:
    """How many calls may be under way: up to `most`, and what the endpoint bears. One event loop, no threads.

    It begins at a part of `most` and grows by one with each success (doubling a round) until the endpoint first says
    that it is busy; from then on by one a round. A busy answer halves it, once for all calls that were under way then.
    `changed` is called with every new limit. Waiting calls are served in order of arrival.
    """

    def __init__(self, most: int, *, start: int = 0, changed: Callable[[int], None] = lambda limit: None) -> None:
        if most < 1:
            raise ValueError(f"most is {most}, wanted at least 1")
        self._most = most
        self._limit = float(min(most, start or max(1, most // 2)))
        self._calm = float(most)  # below it the limit doubles a round
        self._under_way = 0
        self._round = 0  # counts decreases: a failure of an earlier round has been answered already
        self._hold_until = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._changed = changed
        changed(self.now)

    @property
    def now(self) -> int:
        """Calls allowed at once."""
        return int(self._limit)

    @property
    def under_way(self) -> int:
        """Calls under way."""
        return self._under_way

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One call's turn; what the call raises, or not, moves the limit. A cancelled wait gives its turn on."""
        await self._acquire()
        began = self._round
        try:
            yield
        except LLMBusy as error:
            self._busy(began, error.retry_after_s)
            raise
        else:
            self._well()
        finally:
            self._under_way -= 1
            self._grant()

    async def _acquire(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._grant()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # granted and cancelled in the same iteration of the loop
                self._under_way -= 1
                self._grant()
            raise

    def _grant(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._hold_until:
            return  # the timer of `_hold` comes back here
        while self._waiting and self._under_way < self.now:
            turn = self._waiting.popleft()
            if not turn.done():  # a cancelled one has left
                self._under_way += 1
                turn.set_result(None)

    def _well(self) -> None:
        """Grow, but only by demand: a limit nobody uses says nothing about the endpoint."""
        if self._waiting or self._under_way >= self.now:
            step = 1.0 if self._limit < self._calm else 1.0 / self._limit
            self._set(min(float(self._most), self._limit + step))

    def _busy(self, began: int, retry_after_s: float | None) -> None:
        if began == self._round:
            self._round += 1
            self._set(max(1.0, self._limit / 2))
            self._calm = self._limit
        if retry_after_s:
            loop = asyncio.get_running_loop()
            hold_s = min(retry_after_s, LONGEST_HOLD_S)
            self._hold_until = max(self._hold_until, loop.time() + hold_s)
            loop.call_later(hold_s + 0.001, self._grant)

    def _set(self, limit: float) -> None:
        before, self._limit = self.now, limit
        if self.now != before:
            self._changed(self.now)


class LimitedModel(WrappedModel):
    """A language model that never gets more calls at once than `limit` allows; see `LanguageModel`."""

    def __init__(self, llm: LanguageModel, limit: AdaptiveLimit) -> None:
        super().__init__(llm)
        self._limit = limit

    async def complete(self, request: CompletionRequest) -> Completion:
        """See `LanguageModel.complete`; waits for its turn first."""
        async with self._limit.turn():
            return await super().complete(request)


class BudgetedModel(WrappedModel):
    """A language model whose calls are admitted by a budget; see `LanguageModel`.

    1. An estimate is reserved; without room `BudgetSpent` is raised and `deferred` told;
    2. the call is made;
    3. what it used is settled: nothing after an error, the estimate after a time-out, as nobody knows. `spent` gets
       what `settle` answers.

    A call that is cancelled settles nothing: its reservation runs out by itself. The budget's own errors (Redis is
    away) come through before a call; after one they must not cost its answer, and the settlement is made up for before
    the next.
    """

    def __init__(
        self,
        llm: LanguageModel,
        budget: Budget[R],
        *,
        deferred: Callable[[], None] = lambda: None,
        spent: Callable[[Any], None] = lambda state: None,
    ) -> None:
        super().__init__(llm)
        self._budget = budget
        self._deferred = deferred
        self._spent = spent
        self._unsettled: deque[tuple[Any, int]] = deque()

    async def complete(self, request: CompletionRequest) -> Completion:
        """See `LanguageModel.complete`; raises `BudgetSpent` (try again later) as well."""
        estimate = estimated_tokens(request)
        while self._unsettled:
            await self._make_up()
        reserved = await asyncio.to_thread(self._budget.reserve, estimate)
        if not reserved.admitted:
            self._deferred()
            raise BudgetSpent(f"no room for {estimate} tokens in this hour's budget", reserved.retry_after_s)
        try:
            completion = await super().complete(request)
        except Exception as error:
            await self._settle(reserved, estimate if isinstance(error, LLMTimeout) else 0)
            raise
        await self._settle(reserved, completion.tokens_in + completion.tokens_out)
        return completion

    async def _settle(self, reserved: Any, used: int) -> None:
        self._unsettled.append((reserved, used))
        try:
            await self._make_up()
        except Exception as error:
            log.warning("tokens are not settled yet", extra={"cause": repr(error), "calls": len(self._unsettled)})

    async def _make_up(self) -> None:
        """Settle the oldest call that is not settled; it stays the oldest where the budget does not answer."""
        reserved, used = oldest = self._unsettled.popleft()
        try:
            self._spent(await asyncio.to_thread(self._budget.settle, reserved, used))
        except BaseException:
            self._unsettled.appendleft(oldest)
            raise


def estimated_tokens(request: CompletionRequest) -> int:
    """An upper estimate of what one call costs: its prompt by its length in bytes, and the longest answer."""
    prompt_bytes = sum(len(message.content.encode(errors="replace")) for message in request.messages)
    return math.ceil(prompt_bytes / _BYTES_PER_TOKEN) + request.max_tokens
