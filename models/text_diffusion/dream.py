"""Dream (arXiv 2508.15487) as a stock Qwen2: the same tensors, read one position later, without the causal mask.

Owns its configuration in Qwen2's words and its token ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from models.text_diffusion.infilling import InfillingWriter
from models.text_diffusion.masked_network import MaskedNetwork
from models.text_diffusion.model_folder import ModelFolderError, build, device_and_dtype, read_weights
from models.text_diffusion.prompt import Writer

MASK_ID, EOS_ID = 151_666, 151_643
"""Of the published Dream-v0-7B; a configuration that names its own is believed."""

_TAKEN = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)


def qwen_config(config: Mapping[str, Any]) -> Qwen2Config:
    """Qwen2's configuration for Dream's; raises `ModelFolderError` for what Qwen2 cannot compute."""
    if config.get("hidden_act", "silu") != "silu" or config.get("rope_scaling") or config.get("use_sliding_window"):
        raise ModelFolderError("a Dream with another activation, scaled positions or a sliding window is no Qwen2")
    return Qwen2Config(
        **{name: config[name] for name in _TAKEN},
        max_position_embeddings=config.get("max_position_embeddings", 131_072),
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_parameters={"rope_type": "default", "rope_theta": config.get("rope_theta", 1_000_000.0)},
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        use_sliding_window=False,
        pad_token_id=None,
    )


def load_network(folder: Path, config: Mapping[str, Any]) -> MaskedNetwork:
    """The network in `folder`; raises `ModelFolderError`."""
    device, dtype = device_and_dtype()
    try:
        wanted = qwen_config(config)
    except KeyError as error:
        raise ModelFolderError(f"config.json of a Dream lacks {error}") from error
    weights = read_weights(folder, str, device, dtype)
    kind: Any = Qwen2ForCausalLM  # untyped
    model = build(lambda: kind(wanted), weights, lambda: Qwen2RotaryEmbedding(config=wanted), device)
    mask_id, eos_id = config.get("mask_token_id", MASK_ID), config.get("eos_token_id", EOS_ID)
    return MaskedNetwork(model, mask_id=mask_id, stop_ids=[eos_id], shifted=True)


def load(folder: Path, config: Mapping[str, Any], users_at_once: int) -> Writer:
    """See `families.FAMILIES`; the published tokenizer is code of its own around Qwen2's, which is used instead."""
    tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    return InfillingWriter(folder.name, tokenizer, load_network(folder, config), users_at_once=users_at_once)
