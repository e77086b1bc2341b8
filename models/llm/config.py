"""The settings of the language model's endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schemas.setting import SettingGroup, setting


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LlmSettings(SettingGroup):
    """`[llm]`: which endpoint is asked, and how much."""

    GROUP: ClassVar[str] = "llm"
    MAIN: ClassVar[str] = "url"

    url: str = setting("", "Base URL of an OpenAI-compatible endpoint; empty: the stack of `freshet up`", url=True)
    backend: str = setting("openai", "How the endpoint is called; see `models/llm/`")
    model: str = setting("", "Model name at the endpoint; empty: the first one it serves")
    concurrency: int = setting(
        16, "Most LLM calls in flight at once, per worker; fewer while the endpoint is busy", least=1, most=1024
    )
    timeout_s: float = setting(120.0, "Seconds before one LLM call counts as failed", least=1)
    tokens_per_hour: int = setting(
        0, "LLM tokens all workers together may spend an hour, then new items wait; 0: no limit", least=0
    )
