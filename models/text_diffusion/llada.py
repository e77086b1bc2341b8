"""LLaDA (arXiv 2502.09992) as a stock Llama: its configuration and tensor names in Llama's words.

Owns that translation. LLaDA's blocks are Llama's (RMS norm, rotate-half positions, SwiGLU) without the causal mask; a
configuration that asks for anything else is refused rather than computed wrongly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from models.text_diffusion.infilling import InfillingWriter
from models.text_diffusion.masked_network import MaskedNetwork
from models.text_diffusion.model_folder import ModelFolderError, build, device_and_dtype, read_weights
from models.text_diffusion.prompt import Writer

MASK_ID, EOS_ID = 126_336, 126_081
"""Of the published LLaDA-8B; a configuration that names its own is believed."""

_ONLY: dict[str, tuple[Any, ...]] = {
    "block_type": ("llama",),
    "activation_type": ("silu",),
    "layer_norm_type": ("rms",),
    "rope": (True,),
    "alibi": (False,),
    "attention_layer_norm": (False,),
    "include_bias": (False,),
    "include_qkv_bias": (False, None),
    "bias_for_layer_norm": (False, None),
    "input_emb_norm": (False,),
    "scale_logits": (False,),
    "block_group_size": (1,),
}
_OUTER = {
    "wte.weight": "model.embed_tokens.weight",
    "ln_f.weight": "model.norm.weight",
    "ff_out.weight": "lm_head.weight",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(\w+)\.weight")


def llama_config(config: Mapping[str, Any]) -> LlamaConfig:
    """Llama's configuration for LLaDA's; raises `ModelFolderError` for what Llama cannot compute."""
    for name, values in _ONLY.items():
        if name in config and config[name] not in values:
            raise ModelFolderError(f"a LLaDA with {name}={config[name]!r} is no Llama")
    heads = config["n_heads"]
    return LlamaConfig(
        vocab_size=config.get("embedding_size") or config["vocab_size"],
        hidden_size=config["d_model"],
        intermediate_size=config.get("mlp_hidden_size") or config["mlp_ratio"] * config["d_model"],
        num_hidden_layers=config["n_layers"],
        num_attention_heads=heads,
        num_key_value_heads=1 if config.get("multi_query_attention") else config.get("n_kv_heads") or heads,
        max_position_embeddings=config["max_sequence_length"],
        rms_norm_eps=config.get("rms_norm_eps", 1e-5),
        rope_parameters={"rope_type": "default", "rope_theta": config.get("rope_theta", 10_000.0)},
        tie_word_embeddings=bool(config.get("weight_tying", False)),
        attention_bias=False,
        pad_token_id=None,
    )


def llama_name(name: str) -> str:
    """Llama's name for a tensor of LLaDA's; raises `ModelFolderError` for one that has none."""
    part = name.removeprefix("model.").removeprefix("transformer.")
    if part in _OUTER:
        return _OUTER[part]
    match = _BLOCK.fullmatch(part)
    if match is None or match.group(2) not in _INNER:
        raise ModelFolderError(f"LLaDA has no tensor {name!r}")
    return f"model.layers.{match.group(1)}.{_INNER[match.group(2)]}.weight"


def load_network(folder: Path, config: Mapping[str, Any]) -> MaskedNetwork:
    """The network in `folder`; raises `ModelFolderError`."""
    device, dtype = device_and_dtype()
    try:
        wanted = llama_config(config)
    except KeyError as error:
        raise ModelFolderError(f"config.json of a LLaDA lacks {error}") from error
    weights = read_weights(folder, llama_name, device, dtype)
    kind: Any = LlamaForCausalLM  # untyped
    model = build(lambda: kind(wanted), weights, lambda: LlamaRotaryEmbedding(config=wanted), device)
    mask_id, eos_id = config.get("mask_token_id", MASK_ID), config.get("eos_token_id", EOS_ID)
    return MaskedNetwork(model, mask_id=mask_id, stop_ids=[eos_id])


def load(folder: Path, config: Mapping[str, Any], users_at_once: int) -> Writer:
    """See `families.FAMILIES`."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return InfillingWriter(folder.name, tokenizer, load_network(folder, config), users_at_once=users_at_once)
