"""The settings of item knowledge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schemas.setting import SettingGroup, setting


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KnowledgeSettings(SettingGroup):
    """`[knowledge]`: who is asked about an item, and what is asked for."""

    GROUP: ClassVar[str] = "knowledge"

    agents: str = setting("cpu", "Who is asked about an item: an agent set (cpu, full), or agents with commas between")
    catalogue: str = setting("", "File of wanted attributes per category (parquet, CSV, JSON); empty: open analysis")
    examples: str = setting("", "File of items with annotated attributes, as worked examples of that catalogue")
    share: bool = setting(True, "Variants of one product in size or color share one distillation")
