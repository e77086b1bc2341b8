"""Figures of rivals that take turns: percentiles, ratios and rates, round by round, and what they depend on.

Owns the arithmetic that benchmarks share. Must not know what is measured.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import redis

from local.stack.valkey import ValkeyServer


@dataclass
class Taken:
    """What one rival took, by round."""

    rounds: list[list[float]] = field(default_factory=list)  # milliseconds
    seconds: float = 0.0
    hit_rates: list[float] = field(default_factory=list)

    def percentiles(self, q: float) -> list[float]:
        """One a round."""
        return [float(np.percentile(one, q)) for one in self.rounds]

    def summary(self) -> dict[str, float]:
        """p50 and p99 are medians of the rounds' percentiles, p999 is that of all rounds together."""
        everything = np.concatenate(self.rounds)
        found = {
            "p50_ms": median(self.percentiles(50)),
            "p99_ms": median(self.percentiles(99)),
            "p999_ms": float(np.percentile(everything, 99.9)),
            "requests": len(everything),
            "requests_per_s": len(everything) / self.seconds,
        }
        return found | ({"hit_rate": median(self.hit_rates)} if self.hit_rates else {})


Scene = dict[str, Taken]


def ratio(above: Taken, below: Taken, q: float) -> float:
    """Median over the rounds of one percentile over the other's."""
    return median(a / b for a, b in zip(above.percentiles(q), below.percentiles(q), strict=True))


def turns(ways: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Every way in every round, with the round's number; who came first in one comes last in the next."""
    for number in range(rounds):
        first = number % len(ways)
        yield from ((number, way) for way in (*ways[first:], *ways[:first]))


def machine(server: ValkeyServer) -> dict[str, Any]:
    """What every figure depends on."""
    with redis.Redis.from_url(server.url) as client:
        said: Any = client.info("server")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_15_min": round(os.getloadavg()[2], 2),
        "server": f"Valkey {said['valkey_version']} with its defaults, nothing persisted, loopback TCP",
        "python": platform.python_version(),
        **{name.replace("-", "_"): metadata.version(name) for name in ("numpy", "redis", "hiredis")},
        "gc": "enabled, gc.freeze() before each round, for all alike",
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def rounded(found: Any) -> Any:
    """The same with four significant figures."""
    if isinstance(found, dict):
        return {key: rounded(value) for key, value in found.items()}
    if isinstance(found, list):
        return [rounded(value) for value in found]
    return float(f"{found:.4g}") if isinstance(found, float) else found
