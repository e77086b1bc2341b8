"""A job from where it stands to its end: stage after stage, its position kept every second.

Owns the order of stages, what a stage still owes when its ranges are read, and the job's state. Must not decide what is
replayed (`plan`), nor whether it may be (`cli.replay`).

An item that changes while its older record is replayed is published twice by two processes, in any order. Redis keeps
the newer whatever comes last; the compacted feature topic, from which Redis is rebuilt, keeps what comes last. So a
stage ends with the tail of the topic: the records behind its ranges of keys that it has published, and again those
behind them, until none of the keys of a pass has a newer record by the time the pass is confirmed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from store.histories import HistoryStore
from store.refresh_queue import USERS_PER_CALL
from streams.jobs.replay.jobs import Job, Jobs
from streams.jobs.replay.plan import EVENTS, HISTORIES, NAMED, Stage
from streams.jobs.replay.replay_feed import Rate, ReplayFeed, Tell, keys_in
from streams.jobs.replay.stages import UserEnqueuer, named, stage_work
from streams.kafka.offsets import TopicPartition
from streams.kafka.ranges import Range, RangeReader
from streams.settings import Settings
from streams.versions.membership import Membership
from streams.wiring.resources import Resources

_SAVE_S = 5.0

Progress = Callable[[Stage, int], None]
"""Called with a stage and how much of its total is behind: offsets, or users."""


class Replayer:
    """One attempt at a job; `resources` is that of the version the job is for."""

    def __init__(
        self,
        resources: Resources,
        job: Job,
        jobs: Jobs,
        keys: frozenset[bytes],
        progress: Progress = lambda _s, _n: None,
    ) -> None:
        self.job = job
        self._resources = resources
        self._jobs = jobs
        self._keys = keys
        self._progress = progress
        self._rate = Rate(job.plan.request.rate)
        self._backoff = resources.backoff("replay")
        self._writing = threading.Lock()

    async def run(self, stop: asyncio.Event) -> Job:
        """Return the job when it is done, or stopped by `stop`; raises what ended it, its state kept as `failed`.

        1. Join the version as its workers do: components that differ are refused, a deletion is heard of.
        2. Stage after stage. 3. Keep the state, whatever happened.
        """
        membership = Membership(self.job.plan.lanes, self._resources)
        state = "failed"
        try:
            await membership.start()
            work, stopped = asyncio.create_task(self._work()), asyncio.create_task(stop.wait())
            failed = asyncio.create_task(membership.wait_failed())
            try:
                await asyncio.wait([work, stopped, failed], return_when=asyncio.FIRST_COMPLETED)
                if failed.done():
                    raise failed.result()
                if work.done():
                    work.result()
                state = "done" if work.done() else "stopped"
            finally:
                for task in (work, stopped, failed):
                    task.cancel()
                await asyncio.wait([work, stopped, failed])
        finally:
            with suppress(TimeoutError):  # it is taken over all the same, a little later
                async with asyncio.timeout(_SAVE_S):
                    await self._save(state=state)
            await membership.stop()
        return self.job

    async def _work(self) -> None:
        await self._save()
        for stage in self.job.plan.stages:
            if stage.name in self.job.finished:
                self._progress(stage, stage.total)
                continue
            if stage.name == HISTORIES:
                await self._backoff.persevere(lambda stage=stage: self._histories(stage))  # type: ignore[misc]
            elif stage.name == NAMED:
                await self._enqueue(stage, named(self._keys), 0)
            else:
                await self._topic(stage)
            await self._save(finished=(*self.job.finished, stage.name))

    async def _topic(self, stage: Stage) -> None:
        left = self.job.left(stage)
        bounded = bool(self.job.plan.request.to_ms)
        owes = stage.name != EVENTS  # users are queued, and refreshed by what they did up to then
        before = [replace(one, end=rest.first) for one, rest in zip(stage.ranges, left, strict=True)]
        published = await keys_in(self._resources.settings, before) if owes and bounded else set[bytes]()
        wanted = self._keys or None
        feed = self._feed(stage, left, wanted, collect=owes and bounded)
        await feed.run(self._teller(stage))
        if owes:
            published |= feed.keys
            await self._tail(stage, stage.ranges, published if bounded else wanted)

    async def _tail(self, stage: Stage, ranges: Sequence[Range], wanted: Container[bytes] | None) -> None:
        while True:
            now = await asyncio.to_thread(_ends, self._resources.settings, ranges[0].topic)
            ranges = [replace(one, first=one.end, end=now[one.partition]) for one in ranges]
            feed = self._feed(stage, ranges, wanted, collect=True)
            await feed.run(self._ignore)
            if not feed.keys:
                return
            wanted = feed.keys

    def _feed(
        self, stage: Stage, ranges: Sequence[Range], wanted: Container[bytes] | None, *, collect: bool
    ) -> ReplayFeed:
        resources = self._resources
        work = stage_work(stage, resources)
        return ReplayFeed(
            resources.settings, stage.name, ranges, resources.metrics, work,
            wanted=wanted, rate=self._rate, collect=collect,
        )  # fmt: skip

    def _teller(self, stage: Stage) -> Tell:
        firsts = {one.topic_partition: one.first for one in stage.ranges}

        async def tell(reached: Mapping[TopicPartition, int], news: int) -> None:
            positions = {partition: offset for (_, partition), offset in reached.items()}
            done = {**self.job.done, stage.name: self.job.done.get(stage.name, 0) + news}
            await self._save(positions={**self.job.positions, stage.name: positions}, done=done)
            self._progress(stage, sum(offset - firsts[tp] for tp, offset in reached.items()))

        return tell

    async def _ignore(self, _reached: Mapping[TopicPartition, int], _news: int) -> None:
        await self._save()

    async def _histories(self, stage: Stage) -> None:
        """All users, from the beginning: SCAN has no position to go on from that outlives a server."""
        settings = self._resources.settings
        store = HistoryStore(self._resources.redis, settings.key_prefix)
        pages, seen = store.scan_users(), 0
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            await self._enqueue(stage, page, seen)
            seen += len(page)

    async def _enqueue(self, stage: Stage, user_ids: Sequence[str], before: int) -> None:
        """Queue these; `before` of the stage's users came earlier."""
        enqueuer, rate = UserEnqueuer(self._resources), self.job.plan.request.rate
        step = max(1, min(USERS_PER_CALL, int(rate))) if rate else USERS_PER_CALL  # a second's worth at most
        for start in range(0, len(user_ids), step):
            part = user_ids[start : start + step]
            await self._rate.spend(len(part))
            await enqueuer.enqueue(part)
            before += len(part)
            await self._save(done={**self.job.done, stage.name: before})
            self._progress(stage, before)

    async def _save(self, **changes: object) -> None:
        self.job = replace(self.job, saved_ms=self._resources.clock(), **changes)  # type: ignore[arg-type]
        await self._backoff.persevere(lambda: asyncio.to_thread(self._write))

    def _write(self) -> None:
        """The job as it is by now: a thread whose save was cancelled must not put an older one over it."""
        with self._writing:
            self._jobs.save(self.job)


def _ends(settings: Settings, topic: str) -> dict[int, int]:
    with RangeReader(settings) as reader:
        return {one.partition: one.end for one in reader.find(topic)}
