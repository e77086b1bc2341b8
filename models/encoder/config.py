"""The settings of the text encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schemas.setting import SettingGroup, setting


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EncoderSettings(SettingGroup):
    """`[encoder]`: which encoder turns text into vectors, and what computes it."""

    GROUP: ClassVar[str] = "encoder"
    MAIN: ClassVar[str] = "folder"

    folder: str = setting("", "Folder of the text encoder; empty: the one of `freshet models prepare`")
    backend: str = setting("auto", "What computes it: auto, torch (CUDA where there is one) or openvino")
