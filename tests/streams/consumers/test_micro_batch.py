"""Batches of what waits: nothing waits for a full one, and nobody fails for a neighbor."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from streams.consumers.micro_batch import MicroBatcher


class Doubler:
    """Doubles numbers, refuses negative ones; the first batch waits for `go`."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        assert self.go.wait(5)
        if min(numbers) < 0:
            raise ValueError(f"{numbers}")
        return [2 * number for number in numbers]


async def begun(work: Doubler) -> None:
    async with asyncio.timeout(5):
        while not work.batches:
            await asyncio.sleep(0.005)


async def test_what_waits_is_the_next_batch() -> None:
    """Catches one encoder call an item: on two cores that halves the vectors a second."""
    work = Doubler()
    batcher = MicroBatcher(work, size=8)
    first = asyncio.create_task(batcher.submit(0))
    await begun(work)
    others = [asyncio.create_task(batcher.submit(n)) for n in range(1, 12)]
    await asyncio.sleep(0.02)
    work.go.set()
    assert await asyncio.gather(first, *others) == [2 * n for n in range(12)]
    assert work.batches == [[0], list(range(1, 9)), [9, 10, 11]]
    assert await batcher.submit(7) == 14


async def test_a_bad_item_fails_alone() -> None:
    """Catches neighbors that fail with it."""
    work = Doubler()
    batcher = MicroBatcher(work, size=8)
    first = asyncio.create_task(batcher.submit(0))
    await begun(work)
    others = [asyncio.create_task(batcher.submit(n)) for n in (1, -2, 3)]
    await asyncio.sleep(0.02)
    work.go.set()
    results = await asyncio.gather(first, *others, return_exceptions=True)
    assert [result for result in results if isinstance(result, int)] == [0, 2, 6]
    assert isinstance(results[2], ValueError)


async def test_a_cancelled_caller_costs_nothing_and_stops_nobody() -> None:
    """Catches a rebalance that leaves the batcher dead."""
    work = Doubler()
    batcher = MicroBatcher(work, size=2)
    tasks = [asyncio.create_task(batcher.submit(n)) for n in range(5)]
    await begun(work)
    for task in (tasks[0], tasks[3]):
        task.cancel()
    work.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for result in results if isinstance(result, int)] == [2, 4, 8]
    with pytest.raises(asyncio.CancelledError):
        raise results[3]  # type: ignore[misc]
    assert work.batches == [[0, 1], [2, 4]]
