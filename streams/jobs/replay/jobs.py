"""Replays that were begun: what each is to do, how far it is, and who does it. Kept in Redis, so that any machine can
go on with one.

Owns the stored form and when a job may be taken over. Must not run one.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from freshet.connect import Client, keys_for
from streams.jobs.replay.plan import ReplayPlan, Stage
from streams.jobs.replay.request import Request
from streams.kafka.ranges import Range

ALIVE_S = 30.0
"""A running job that was not saved for so long has lost its process."""
KEPT_S = 30 * 86_400
"""Jobs are forgotten so long after they were last saved."""


class JobError(Exception):
    """A job cannot be resumed; the message says why."""


@dataclass(frozen=True, slots=True)
class Job:
    """A plan under way. `positions`: of each stage, partition to the first offset that is not done; `done`: records or
    users of each stage that are, filtered ones left out; `finished`: the stages that are over."""

    id: str
    plan: ReplayPlan
    state: str = "running"
    owner: str = ""
    begun_ms: int = 0
    saved_ms: int = 0
    positions: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    done: Mapping[str, int] = field(default_factory=dict)
    finished: tuple[str, ...] = ()

    def left(self, stage: Stage) -> list[Range]:
        """What is still to read of a stage."""
        reached = self.positions.get(stage.name, {})
        return [replace(one, first=max(one.first, reached.get(one.partition, 0))) for one in stage.ranges]


def new_job(plan: ReplayPlan, owner: str, now_ms: int) -> Job:
    """A job that has not begun, with an id that sorts by time."""
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now_ms / 1_000))}-{secrets.token_hex(2)}"
    return Job(name, plan, owner=owner, begun_ms=now_ms, saved_ms=now_ms)


class Jobs:
    """The jobs under one key prefix; redis-py's errors come through, and every call may be repeated."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._redis: Any = client
        self._key = keys_for(client, prefix).replays()

    def save(self, job: Job) -> None:
        """Keep `job` as it is."""
        self._redis.hset(self._key, job.id, json.dumps(asdict(job)))

    def get(self, job_id: str) -> Job:
        """The job; raises `JobError` where there is none."""
        row = self._redis.hget(self._key, job_id)
        if row is None:
            raise JobError(f"no replay is called {job_id!r}; `freshet replay --jobs` lists them")
        return _job(json.loads(row))

    def all(self, now_ms: int) -> list[Job]:
        """Every job, oldest first; those older than `KEPT_S` are forgotten."""
        jobs = sorted((_job(json.loads(row)) for row in self._redis.hvals(self._key)), key=lambda job: job.id)
        old = [job.id for job in jobs if now_ms - job.saved_ms > 1_000 * KEPT_S]
        if old:
            self._redis.hdel(self._key, *old)
        return [job for job in jobs if job.id not in old]

    def take_over(self, job_id: str, owner: str, now_ms: int) -> Job:
        """The job, to go on with; raises `JobError` where it is done, or another process is at it."""
        job = self.get(job_id)
        if job.state == "done":
            raise JobError(f"replay {job_id} is done")
        age_s = (now_ms - job.saved_ms) / 1_000
        if job.state == "running" and job.owner != owner and age_s < ALIVE_S:
            raise JobError(
                f"{job.owner} was at replay {job_id} {max(0.0, age_s):.0f} s ago; "
                f"if it is dead, try again in {ALIVE_S - age_s:.0f} s"
            )
        return replace(job, state="running", owner=owner, saved_ms=now_ms)


def _job(row: Mapping[str, Any]) -> Job:
    plan = row["plan"]
    stages = tuple(
        Stage(stage["name"], tuple(Range(**one) for one in stage["ranges"]), stage["users"]) for stage in plan["stages"]
    )
    positions = {
        stage: {int(p): offset for p, offset in reached.items()} for stage, reached in row["positions"].items()
    }
    rest = {name: row[name] for name in ("id", "state", "owner", "begun_ms", "saved_ms", "done")}
    return Job(
        **rest,
        plan=ReplayPlan(Request(**plan["request"]), stages),
        positions=positions,
        finished=tuple(row["finished"]),
    )
