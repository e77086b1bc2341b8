"""The settings of a worker process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schemas.setting import SettingGroup, setting


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WorkerSettings(SettingGroup):
    """`[worker]`: the process."""

    GROUP: ClassVar[str] = "worker"

    threads: int = setting(1, "Threads of one torch computation; raise it where cores are idle", least=1)
    stall_s: float = setting(
        120.0, "A lane that is behind, or a thread, without progress for so many seconds is stalled", least=1
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class MetricsSettings(SettingGroup):
    """`[metrics]`: where a worker answers Prometheus and probes."""

    GROUP: ClassVar[str] = "metrics"

    port: int = setting(0, "Port of /metrics, /livez and /readyz of a worker; 0: none", least=0, most=65_535)
    host: str = setting("127.0.0.1", "Address that port is bound to; 0.0.0.0 inside a container")
