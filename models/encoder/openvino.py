"""The sentence encoder on OpenVINO: on a CPU with bfloat16 a fifth faster than torch.

Owns the conversion of the torch model, its cache and its compilation. Must not choose itself: `models.encoder.encoder`
does, after a check of the vectors. Weights stay float32 on disk and are computed in bfloat16; dynamic int8 is wrong.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from models.encoder.encoder import EncoderUnavailable, SentenceEncoder, Tokens, Vectors, fast_bfloat16, revision

MODEL = "encoder.xml"


def installed() -> bool:
    """Whether OpenVINO can be imported here."""
    return find_spec("openvino") is not None


class OpenVinoEncoder(SentenceEncoder):
    """See `models.encoder.encoder.TextEncoder`; `cache` is a folder that keeps the converted model for the next start.

    Raises `EncoderUnavailable` where OpenVINO is not installed.
    """

    def __init__(self, folder: Path, cache: Path | None = None, *, batch_size: int = 32, max_tokens: int = 128) -> None:
        if not installed():
            raise EncoderUnavailable("no OpenVINO: pip install '.[openvino]' in the checkout, or another back end")
        import openvino
        import torch

        super().__init__(folder, batch_size=batch_size, max_tokens=max_tokens)
        core = openvino.Core()
        hints: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if fast_bfloat16() else "f32",
            "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, all threads on it
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),  # a worker's setting, for whatever computes in it
        }
        self._model = core.compile_model(_converted(core, folder, cache), "CPU", hints)
        self._inputs = [one.get_any_name() for one in self._model.inputs]
        self._request = self._model.create_infer_request()

    def _states(self, tokens: Tokens) -> Vectors:
        given = {name: np.ascontiguousarray(tokens[name], dtype=np.int64) for name in self._inputs}
        [states] = self._request.infer(given).values()
        return np.asarray(states, dtype=np.float32)


def _converted(core: Any, folder: Path, cache: Path | None) -> Any:
    """The model in OpenVINO's form, from the cache or made anew; a half-written cache is never seen."""
    import openvino

    if cache is None:
        return _convert(folder)
    place = cache / f"{revision(folder)}-openvino-{openvino.__version__.split('-')[0]}"
    if not (place / MODEL).exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".new-") as new:
            made = Path(new) / "model"
            made.mkdir()
            openvino.save_model(_convert(folder), made / MODEL, compress_to_fp16=False)
            try:
                os.rename(made, place)
            except OSError:  # another process was first: its model is the same
                if not (place / MODEL).exists():
                    raise
    return core.read_model(place / MODEL)


def _convert(folder: Path) -> Any:
    """Trace the torch model once; the shapes stay free.

    Over the front end itself, since `openvino.convert_model` reports its use to a statistics service.
    """
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, use_safetensors=True, attn_implementation="eager"
    ).eval()
    example = dict(tokenizer(["two texts", "of unlike length, padded"], padding=True, return_tensors="pt"))

    class States(torch.nn.Module):
        """The last hidden states alone, by name of the input."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return self.model(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing is deprecated in torch, and what OpenVINO has
        decoder = TorchScriptPythonDecoder(States(), example_input=example)
        front_end = FrontEndManager().load_by_framework("pytorch")
        return front_end.convert(front_end.load(decoder))
