"""The settings of the user reasoner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schemas.setting import SettingGroup, setting


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ReasonerSettings(SettingGroup):
    """`[reasoner]`: who infers what users do beyond the log."""

    GROUP: ClassVar[str] = "reasoner"
    MAIN: ClassVar[str] = "kind"

    kind: str = setting("block-diffusion", "Who infers: block-diffusion, text-diffusion or cooccurrence")
    checkpoint: str = setting("", "Checkpoint folder; empty: home/reasoner; absent: co-occurrence fallback")
    url: str = setting("", "Text diffusion: base URL of its OpenAI-compatible server; empty: in process", url=True)
    model: str = setting("", "Text diffusion: model name at that server (empty: its first), or model folder")
    slots: int = setting(16, "Behaviors inferred per user", least=1, most=256)
