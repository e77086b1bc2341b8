"""The limit that follows the endpoint, and the budget that puts calls off."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from models.llm.client import Completion, CompletionRequest, LLMBusy, LLMTimeout, LLMUnavailable, Message
from models.llm.limits import AdaptiveLimit, BudgetedModel, BudgetSpent, LimitedModel, estimated_tokens
from tests.support.fakes_llm import FakeLlm

ASK = [Message("system", "Say what it is."), Message("user", '<item>{"title": "green tea"}</item>')]
SCHEMA = {"type": "object", "properties": {"summary": {"type": "string"}}, "required": ["summary"]}
REQUEST = CompletionRequest(ASK, SCHEMA, "s", max_tokens=50)


def request(text: str, max_tokens: int) -> CompletionRequest:
    return CompletionRequest([Message("user", text)], SCHEMA, "s", max_tokens)


async def ask(model: LimitedModel | BudgetedModel) -> Completion:
    return await model.complete(REQUEST)


class Gated(FakeLlm):
    """Calls that end when told, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.under_way = self.most = 0

    async def complete(self, request: CompletionRequest) -> Completion:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.go.wait()
            return await super().complete(request)
        finally:
            self.under_way -= 1


class Quick(FakeLlm):
    """Calls that take a turn of the loop, so that they are under way together."""

    async def complete(self, request: CompletionRequest) -> Completion:
        await asyncio.sleep(0.001)
        return await super().complete(request)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_never_more_calls_than_the_limit() -> None:
    """Catches an endpoint flooded by a window of records."""
    llm = Gated()
    model = LimitedModel(llm, AdaptiveLimit(4, start=4))
    calls = [asyncio.create_task(ask(model)) for _ in range(20)]
    await settled()
    assert llm.under_way == 4
    llm.go.set()
    await asyncio.gather(*calls)
    assert (llm.most, llm.under_way, len(llm.calls)) == (4, 0, 20)


async def test_the_limit_doubles_a_round_up_to_its_most() -> None:
    """Catches a lane that stays slow for minutes after its start."""
    seen: list[int] = []
    limit = AdaptiveLimit(16, start=2, changed=seen.append)
    model = LimitedModel(Quick(), limit)
    for _ in range(5):
        await asyncio.gather(*[ask(model) for _ in range(16)])
    assert (limit.now, seen[0], max(seen)) == (16, 2, 16)


async def test_a_limit_nobody_uses_does_not_grow() -> None:
    """Catches a quiet night that ends in a flood."""
    limit = AdaptiveLimit(16, start=4)
    for _ in range(50):
        await ask(LimitedModel(FakeLlm(), limit))
    assert limit.now == 4


async def test_busy_answers_halve_once_for_all_calls_of_a_round() -> None:
    """Catches sixteen refusals at one moment that leave one call at a time."""
    llm = Gated()
    llm.errors.extend([LLMBusy("429")] * 8)
    limit = AdaptiveLimit(8, start=8)
    calls = [asyncio.create_task(ask(LimitedModel(llm, limit))) for _ in range(8)]
    await settled()
    llm.go.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, LLMBusy) for result in results)
    assert limit.now == 4


async def test_after_a_busy_answer_it_grows_by_one_a_round() -> None:
    """Catches a limit that jumps straight back to where the endpoint was busy."""
    llm, limit = Quick(), AdaptiveLimit(16, start=16)
    model = LimitedModel(llm, limit)
    llm.errors.append(LLMBusy("503"))
    with pytest.raises(LLMBusy):
        await ask(model)
    assert limit.now == 8
    await asyncio.gather(*[ask(model) for _ in range(8)])
    assert limit.now in (8, 9)
    for _ in range(40):
        await asyncio.gather(*[ask(model) for _ in range(16)])
    assert limit.now == 16


async def test_an_endpoint_that_is_away_is_not_a_busy_one() -> None:
    """Catches a restart of the server that costs minutes of slow growth afterwards."""
    llm, limit = FakeLlm(), AdaptiveLimit(16, start=16)
    llm.errors.append(LLMUnavailable("connection refused"))
    with pytest.raises(LLMUnavailable):
        await ask(LimitedModel(llm, limit))
    assert limit.now == 16


async def test_retry_after_is_waited_for_by_all() -> None:
    """Catches an endpoint that asked for a pause and gets the next call at once."""
    llm, limit = FakeLlm(), AdaptiveLimit(4)
    model = LimitedModel(llm, limit)
    llm.errors.append(LLMBusy("429", retry_after_s=0.2))
    with pytest.raises(LLMBusy):
        await ask(model)
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*[ask(model) for _ in range(3)])
    assert asyncio.get_running_loop().time() - began >= 0.19


async def test_cancelled_calls_and_waits_give_their_turns_on() -> None:
    """Catches a rebalance that leaks turns until the lane stands still."""
    llm = Gated()
    limit = AdaptiveLimit(2, start=2)
    model = LimitedModel(llm, limit)
    calls = [asyncio.create_task(ask(model)) for _ in range(6)]
    await settled()
    for call in (calls[0], calls[3]):  # one under way, one that waits
        call.cancel()
    calls[1].cancel()
    await settled()
    assert limit.under_way == 2
    llm.go.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(result, Completion) for result in results) == 3
    assert limit.under_way == 0
    await ask(model)


async def test_a_turn_granted_and_cancelled_at_one_moment_is_given_on() -> None:
    """Catches the narrow case: the turn was handed over, and its caller was cancelled before it woke."""
    limit = AdaptiveLimit(1, start=1)
    model = LimitedModel(FakeLlm(), limit)
    first = limit.turn()
    await first.__aenter__()
    waiting = asyncio.create_task(ask(model))
    await settled()
    await first.__aexit__(None, None, None)  # grants
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert limit.under_way == 0
    await ask(model)


@dataclass
class FakeReservation:
    admitted: bool
    tokens: int
    retry_after_s: float = 1_200.0


class FakeBudget:
    """A budget of `room` tokens; `trouble` is raised by the next calls."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.settled: list[int] = []
        self.trouble: deque[Exception] = deque()

    def reserve(self, tokens: int) -> FakeReservation:
        if self.trouble:
            raise self.trouble.popleft()
        return FakeReservation(tokens <= self.room, tokens)

    def settle(self, reservation: FakeReservation, used: int) -> int:
        if self.trouble:
            raise self.trouble.popleft()
        self.settled.append(used)
        return sum(self.settled)


async def test_a_call_is_admitted_and_settled_by_its_usage() -> None:
    """Catches usage that never reaches the budget."""
    budget, spent = FakeBudget(10_000), list[int]()
    await ask(BudgetedModel(FakeLlm(), budget, spent=spent.append))
    assert (budget.settled, spent) == ([150], [150])


async def test_without_room_nothing_is_called() -> None:
    """Catches a budget that is only counted; and a deferral that looks like an item's fault."""
    llm, deferred = FakeLlm(), list[int]()
    model = BudgetedModel(llm, FakeBudget(10), deferred=lambda: deferred.append(1))
    with pytest.raises(BudgetSpent) as caught:
        await ask(model)
    assert isinstance(caught.value, LLMUnavailable)
    assert not isinstance(caught.value, LLMBusy), "the endpoint is not busy: the limit must stay"
    assert caught.value.retry_after_s == 1_200.0
    assert (llm.calls, deferred) == ([], [1])


@pytest.mark.parametrize(
    ("error", "used"),
    [
        (LLMUnavailable("refused"), lambda: 0),
        (LLMBusy("429"), lambda: 0),
        (LLMTimeout("slow"), lambda: estimated_tokens(REQUEST)),
    ],
)
async def test_a_failed_call_gives_its_tokens_back_unless_nobody_knows(
    error: Exception, used: Callable[[], int]
) -> None:
    """Catches an outage that eats the budget, and time-outs that are free."""
    llm, budget = FakeLlm(), FakeBudget(10_000)
    llm.errors.append(error)
    with pytest.raises(type(error)):
        await ask(BudgetedModel(llm, budget))
    assert budget.settled == [used()]


async def test_an_answer_outlives_a_budget_that_is_away_when_it_is_settled() -> None:
    """Catches tokens paid for twice because Redis was restarted during a call, and usage that is forgotten."""
    budget, llm = FakeBudget(10_000), Gated()
    model = BudgetedModel(llm, budget)
    call = asyncio.create_task(ask(model))
    async with asyncio.timeout(5):
        while not llm.under_way:
            await asyncio.sleep(0.005)
    budget.trouble.append(ConnectionError("redis is away"))
    llm.go.set()
    assert (await call).tokens_out == 50
    assert budget.settled == []
    await ask(model)
    assert budget.settled == [150, 150]
    budget.trouble.append(ConnectionError("redis is away"))
    with pytest.raises(ConnectionError):
        await ask(model)


def test_the_estimate_covers_a_prompt_in_any_script() -> None:
    """Catches Chinese prompts, three bytes and about one token a character, estimated as English ones."""
    chinese = estimated_tokens(request("绿茶" * 100, 0))
    assert 130 <= chinese <= 260
    assert estimated_tokens(request("green tea " * 100, 10)) >= 260
