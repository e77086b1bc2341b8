"""The settings of the user reasoner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schemas.setting import SettingGroup, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonerSettings(SettingGroup):
    """`[reasoner]`: who infers what users do beyond the log."""

    GROUP: ClassVar[str] = "reasoner"
    MAIN: ClassVar[str] = "kind"

    kind: str = setting("block-diffusion", "Who infers: block-diffusion, text-diffusion or cooccurrence")
    checkpoint: str = setting("", "Checkpoint folder; empty: home/reasoner; absent: co-occurrence fallback")
    url: str = setting("", "Text diffusion: base URL of its OpenAI-compatible server; empty: in process", url=True)
    model: str = setting("", "Text diffusion: model name at that server (empty: its first), or model folder")
    slots: int = setting(16, "Behaviors inferred per user", least=1, most=256)
    threshold: float = setting(0.55, "", least=0.01, most=1)
    concurrency: int = setting(16, "", least=1, most=1024)
    steps: int = setting(1, "", least=1, most=256)
    slots_between: int = setting(0, "", least=0, most=256)
    schedule: str = setting("fixed", "", words=("fixed", "confidence", "entropy"))
    schedule_bound: float = setting(0.0, "", least=0)
    temperature: float = setting(0.0, "", least=0)
