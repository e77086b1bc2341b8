"""What the due-set costs the server with a million users in it: `python -m benchmarks.due [--users N] [--json]`.

Starts a Valkey of its own and takes the mean CPU time of server-side calls, each of which blocks everybody else: claim
and completion of 128 among users due, the first claim after 75 thousand refreshes passed the interval, appends of 1,000
events of due users, and claims among users whose interval has just ended.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import redis

from freshet.layout import Keys
from local.stack.valkey import ValkeyServer
from store.histories import HistoryBatch, HistoryEvent, HistoryStore, QueuedVersions
from store.refresh_queue import RefreshQueue

BATCH, CALLS = 128, 300


def fill(client: redis.Redis, key: str, users: int, first_ms: int) -> None:
    """Marks of `users`, ten a millisecond, the first at `first_ms`."""
    for start in range(0, users, 10_000):
        marks = {
            f"u{n * 7_919 % users}": first_ms + n // 10 + 1 / 1024 for n in range(start, min(users, start + 10_000))
        }
        client.zadd(key, marks)


def call_us(client: redis.Redis, work: Callable[[], object]) -> int:
    """Mean microseconds of the server's CPU that the server-side calls of `work` take: on a busy machine the wall clock
    mostly says how long the server waited for a core."""
    client.config_resetstat()
    before = cpu_s(client)
    work()
    used = cpu_s(client) - before
    return round(1e6 * used / client.info("commandstats")["cmdstat_fcall"]["calls"])  # type: ignore[index]


def cpu_s(client: redis.Redis) -> float:
    """CPU seconds of the thread that runs commands."""
    used = client.info("cpu")
    return float(used["used_cpu_user_main_thread"] + used["used_cpu_sys_main_thread"])  # type: ignore[index]


def measure(client: redis.Redis, users: int) -> dict[str, int]:
    """Microseconds of CPU a call, by what it does."""
    keys, due, store = Keys(), RefreshQueue(client, "v1"), HistoryStore(client)
    now_ms = 1_000 * int(client.time()[0])  # type: ignore[index]
    fill(client, keys.due("v1"), users, now_ms - users)
    claims = due.lease(1, 60)  # loads the functions
    found = {"claim": call_us(client, lambda: [claims.extend(due.lease(BATCH, 60)) for _ in range(CALLS)])}
    parts = [claims[start : start + BATCH] for start in range(0, len(claims), BATCH)]
    found["complete"] = call_us(client, lambda: [due.complete(part) for part in parts])
    client.zadd(keys.refreshed("v1"), {f"gone{n}": 1.0 for n in range(75_000)})
    found["claim_after_a_pause"] = call_us(client, lambda: due.lease(BATCH, 60))
    for name, each in (("append_500x2", 2), ("append_100x10", 10)):
        batches = [
            HistoryBatch.of(
                HistoryEvent(f"u{(n + 1_000 * k) * 7_919 % users}", f"i{e}", "view", now_ms + e, offset=1_000 * k + e)
                for n in range(users - 1_000 // each, users)
                for e in range(each)
            )
            for k in range(100)
        ]
        found[name] = call_us(
            client, lambda batches=batches: [store.append(batch, QueuedVersions(["v1"])) for batch in batches]
        )  # type: ignore[misc]
    client.delete(keys.due("v1"), keys.leased("v1"), keys.refreshed("v1"))
    fill(client, keys.waiting("v1"), users, now_ms - users)
    found["claim_as_intervals_end"] = call_us(client, lambda: [due.lease(BATCH, 60) for _ in range(CALLS)])
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.due", description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    options = parser.parse_args(arguments)
    with ValkeyServer() as server, redis.Redis.from_url(server.url) as client:
        found = measure(client, options.users)
    if options.json:
        print(json.dumps({"users": options.users, **{f"{name}_cpu_us": value for name, value in found.items()}}))
    else:
        for name, value in found.items():
            print(f"{name:24} {value:6} us of CPU a call")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
