"""What a worker runs: a lane, or a service beside the lanes.

Owns that contract. Must not know a lane.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Lane(Protocol):
    """One step of the flow with a consumer group (or timer) of its own, or a service; run by `streams.worker.worker`.

    - `start` returns once the lane runs; it raises where the lane can not.
    - `wait_failed` returns the error that stopped the lane for good, and never returns while the lane is well.
    - `stop` finishes or abandons what is in flight within seconds, commits what is durable, and may be called once,
      also on a lane that failed or was never started. What is not committed comes again.
    """

    name: str

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def wait_failed(self) -> BaseException: ...


async def failure_of(task: asyncio.Task[None]) -> BaseException:
    """The error that ended `task`; never returns where it was cancelled: a stop on purpose is no failure."""
    await asyncio.wait([task])
    error = None if task.cancelled() else task.exception()
    if error is None:
        await asyncio.Event().wait()
    assert error is not None
    return error
