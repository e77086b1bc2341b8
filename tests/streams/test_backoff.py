"""Backing off: transient errors are tried again, others pass, and one pause serves all."""

from __future__ import annotations

import asyncio

import pytest

from streams.backoff import Backoff
from streams.errors import DeliveryFailed, RecordTooLarge
from streams.metrics import Metrics


async def test_a_transient_error_is_tried_until_it_passes() -> None:
    """Catches a record given up because a dependency was away."""
    tries = 0

    async def flaky() -> str:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise DeliveryFailed("away")
        return "done"

    metrics = Metrics()
    backoff = Backoff("lane", metrics, least_s=0.01)
    assert await backoff.persevere(flaky) == "done"
    assert tries == 4
    assert not backoff.active
    assert metrics.retries.labels(lane="lane", cause="DeliveryFailed")._value.get() == 3


async def test_poison_and_bugs_pass_at_once() -> None:
    """Catches a poison record that is retried for ever."""
    backoff = Backoff("lane", Metrics())
    for error in (RecordTooLarge("x"), RuntimeError("bug")):

        async def fails(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            await asyncio.wait_for(backoff.persevere(fails), 1)


async def test_many_that_fail_at_once_are_one_failure() -> None:
    """Catches a pause that doubles with every record in flight: a second's outage would cost a minute."""
    backoff = Backoff("lane", Metrics(), least_s=0.05, most_s=60)
    away = True

    async def operation() -> None:
        if away:
            raise DeliveryFailed("away")

    tasks = [asyncio.create_task(backoff.persevere(operation)) for _ in range(50)]
    await asyncio.sleep(0.02)
    away = False
    await asyncio.wait_for(asyncio.gather(*tasks), 2)


async def test_who_says_when_to_come_back_is_left_alone_until_then() -> None:
    """Catches an endpoint that asked for a pause and is asked every 0.2 s; and an hour's pause nobody can end."""

    class Busy(DeliveryFailed):
        retry_after_s = 0.3

    times: list[float] = []

    async def operation() -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            raise Busy("later")

    await Backoff("lane", Metrics(), least_s=0.01).persevere(operation)
    assert times[1] - times[0] > 0.2
    times.clear()
    await Backoff("lane", Metrics(), least_s=0.01, most_s=0.02).persevere(operation)
    assert times[1] - times[0] < 0.2
