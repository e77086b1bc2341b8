"""DiffusionGemma in process, by transformers' own class and its own sampler: it answers a chat, as over a server.

Owns the calls, one user at a time: its canvas is long, and an answer must not depend on who else is asked about.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from models.text_diffusion.loading import ModelFolderError, device_and_dtype
from models.text_diffusion.prompt import TOKENS_PER_SLOT, Line, PromptLog, Writer, Written, messages, parse


class GemmaWriter:
    """See `prompt.Writer`; the deadline is looked at between users, as one answer cannot be cut short.

    Its sampler draws its first canvas at random; a log is its own seed, so that the same one gets the same answer.
    """

    def __init__(self, name: str, tokenizer: Any, model: Any, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._tokenizer = tokenizer
        self._model = model.eval().requires_grad_(False)
        self._clock = clock

    def write(self, logs: Sequence[PromptLog], *, slots: int, end: float | None) -> list[Written]:
        """See `Writer.write`."""
        return [
            Written(degraded=True) if end is not None and self._clock() >= end else self._answer(log, slots)
            for log in logs
        ]

    @torch.inference_mode()
    def _answer(self, log: PromptLog, slots: int) -> Written:
        asked = self._prompt(log, slots)
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(zlib.crc32("\n".join(log.titles).encode()))
            answered = self._model.generate(
                input_ids=torch.tensor([asked], device=self._model.device),
                max_new_tokens=TOKENS_PER_SLOT * slots,
                disable_compile=True,
            )
        tokens = answered.sequences[0, len(asked) :]
        text = str(self._tokenizer.decode(tokens, skip_special_tokens=True))
        return Written(tuple(Line(line) for line in parse(text, slots)))

    def _prompt(self, log: PromptLog, slots: int) -> list[int]:
        turns = [{"role": message.role, "content": message.content} for message in messages(log, slots)]
        if not self._tokenizer.chat_template:
            text = "\n".join(turn["content"] for turn in turns) + "\n"
            return list(self._tokenizer.encode(text))
        text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return list(self._tokenizer.encode(text, add_special_tokens=False))


def load(folder: Path, config: Mapping[str, Any], users_at_once: int) -> Writer:
    """See `loading.FAMILIES`; raises `ModelFolderError` where this transformers is too old."""
    try:
        from transformers import AutoTokenizer, DiffusionGemmaForBlockDiffusion
    except ImportError as error:
        raise ModelFolderError("this transformers knows no diffusion_gemma, 5.17 does") from error
    device, dtype = device_and_dtype()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = DiffusionGemmaForBlockDiffusion.from_pretrained(
        folder, local_files_only=True, dtype=dtype, use_safetensors=True
    )
    return GemmaWriter(folder.name, tokenizer, model.to(device))
