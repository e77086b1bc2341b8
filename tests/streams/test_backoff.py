"""Backing off: transient errors are tried again, others pass, and one pause serves all."""

from __future__ import annotations

import asyncio

import pytest

from streams.backoff import Backoff, Retries
from streams.errors import DeliveryFailed, RecordTooLarge
from streams.health import Health
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


def test_a_lane_waits_as_long_as_any_work_of_it_does() -> None:
    """Catches a lane that counts as well because Redis came back, while its LLM is still away."""
    metrics = Metrics()
    health = Health(metrics, stall_s=10)
    llm, other = (Retries("lane", metrics, health) for _ in range(2))
    gauge = {"lane": "lane"}
    assert metrics.registry.get_sample_value("freshet_backing_off", gauge) == 0
    assert 0 < llm.failed(DeliveryFailed("away")) < 1
    other.failed(DeliveryFailed("away"))
    assert other.succeeded()
    assert not other.succeeded(), "once"
    assert health.waiting() == ["lane"]
    assert "waiting for a dependency: lane" in health.ready()
    assert metrics.registry.get_sample_value("freshet_backing_off", gauge) == 1
    assert llm.succeeded()
    assert health.waiting() == []
    assert metrics.registry.get_sample_value("freshet_backing_off", gauge) == 0


def test_pauses_double_within_their_bounds() -> None:
    """Catches a pause that never grows, or one that grows past what anybody would wait for."""
    retries = Retries("lane", Metrics(), least_s=1, most_s=8)
    pauses = [retries.failed(DeliveryFailed("away")) for _ in range(6)]
    for pause, middle in zip(pauses, (1, 2, 4, 8, 8, 8), strict=True):
        assert 0.75 * middle <= pause <= 1.25 * middle
    with pytest.raises(RecordTooLarge):
        retries.count(RecordTooLarge("x"))
