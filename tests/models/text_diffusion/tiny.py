"""Tiny random models and a word-level tokenizer, in folders as Hugging Face lays them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from models.text_diffusion.masked_network import MaskedNetwork

torch.set_num_threads(1)

VOCABULARY, MASK_ID, EOS_ID, TURN_ID = 300, 290, 291, 292
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "pad_token_id": None,
}


def network(kind: str = "llama", *, shifted: bool = False, seed: int = 0) -> MaskedNetwork:
    """Random weights in float64, large enough for every state to depend on all that it sees."""
    config, make = {
        "llama": (LlamaConfig(**SHAPE), LlamaForCausalLM),
        "qwen2": (Qwen2Config(**SHAPE), Qwen2ForCausalLM),
    }[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = make(config).double()
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.3)
    return MaskedNetwork(model, mask_id=MASK_ID, stop_ids=[EOS_ID], shifted=shifted)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and the control tokens that a text may not name."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={one: at for at, one in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=core)
    made.add_tokens([f"<filler{n}>" for n in range(MASK_ID - len(alphabet))])
    made.add_special_tokens({"mask_token": "<|mask|>", "eos_token": "<|end|>"})
    made.add_tokens([AddedToken("<|turn|>", special=True)])  # a control token that no attribute names
    assert (made.mask_token_id, made.eos_token_id, len(made)) == (MASK_ID, EOS_ID, TURN_ID + 1)
    return made


def llada_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors under LLaDA's names, 4 heads of 8, 2 of keys."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.3 + (1.0 if len(shape) == 1 else 0.0)

    weights = {
        "model.transformer.wte.weight": drawn(VOCABULARY, 32),
        "model.transformer.ln_f.weight": drawn(32),
        "model.transformer.ff_out.weight": drawn(VOCABULARY, 32),
    }
    for layer in range(2):
        shapes = {"attn_norm": (32,), "ff_norm": (32,), "q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32)}
        shapes |= {"attn_out": (32, 32), "ff_proj": (48, 32), "up_proj": (48, 32), "ff_out": (32, 48)}
        for name, shape in shapes.items():
            weights[f"model.transformer.blocks.{layer}.{name}.weight"] = drawn(*shape)
    return weights


LLADA_CONFIG: dict[str, Any] = {
    "model_type": "llada",
    "d_model": 32,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 2,
    "mlp_hidden_size": 48,
    "vocab_size": VOCABULARY,
    "embedding_size": VOCABULARY,
    "max_sequence_length": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "mask_token_id": MASK_ID,
    "eos_token_id": EOS_ID,
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "rope": True,
    "alibi": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "weight_tying": False,
}
DREAM_CONFIG: dict[str, Any] = {
    "model_type": "Dream",
    **{name: SHAPE[name] for name in SHAPE if name not in ("rope_parameters", "pad_token_id")},
    "rope_theta": 10_000.0,
    "mask_token_id": MASK_ID,
    "eos_token_id": EOS_ID,
    "hidden_act": "silu",
}


def write_folder(folder: Path, config: dict[str, Any], weights: dict[str, torch.Tensor], *, shards: int = 1) -> Path:
    """A model folder; with several `shards` the weights are split and an index names the files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer().save_pretrained(folder)
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    names = sorted(weights)
    placed = {name: f"model-{at % shards + 1:05d}-of-{shards:05d}.safetensors" for at, name in enumerate(names)}
    for file in set(placed.values()):
        save_file({name: weights[name] for name in names if placed[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder
