"""LLaDA, Dream and DiffusionGemma from folders of tiny random weights, against their papers' formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.text_diffusion import dream, llada
from models.text_diffusion.infilling import InfillingWriter
from models.text_diffusion.loading import ModelFolderError, load_writer
from models.text_diffusion.network import Block
from models.text_diffusion.prompt import PromptLog
from tests.models.text_diffusion.tiny import (
    DREAM_CONFIG,
    EOS_ID,
    LLADA_CONFIG,
    MASK_ID,
    SHAPE,
    VOCABULARY,
    llada_weights,
    network,
    tokenizer,
    write_folder,
)

LOG = PromptLog(("green tea", "tea pot"), (0, 0))


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU in float64, wherever the tests run."""
    for module in (llada, dream):
        monkeypatch.setattr(module, "device_and_dtype", lambda: (torch.device("cpu"), torch.float64))


def norm(states: Tensor, weight: Tensor) -> Tensor:
    return weight * states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + 1e-5)


def turned(heads: Tensor) -> Tensor:
    """Rotary positions over (H, T, D): halves turn together, base 10,000."""
    _, length, width = heads.shape
    angles = torch.arange(length)[:, None] / 10_000.0 ** (torch.arange(0, width, 2) / width)
    cos, sin = (torch.cat([part, part], dim=-1).double() for part in (angles.cos(), angles.sin()))
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin


def llada_logits(weights: dict[str, Tensor], tokens: list[int]) -> Tensor:
    """LLaDA's forward (T, V), after its paper and configuration: pre-norm blocks, full attention, SwiGLU."""
    part = {name.removeprefix("model.transformer."): tensor.double() for name, tensor in weights.items()}
    x = part["wte.weight"][torch.tensor(tokens)]  # (T, D)
    for layer in range(2):
        block = {name.split(".")[2]: part[name] for name in part if name.startswith(f"blocks.{layer}.")}
        given = norm(x, block["attn_norm"])
        q, k, v = ((given @ block[f"{name}_proj"].T).unflatten(-1, (-1, 8)).transpose(0, 1) for name in "qkv")
        q, k = turned(q), turned(k)
        k, v = (one.repeat_interleave(2, dim=0) for one in (k, v))  # 2 heads of keys serve 4
        shares = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)  # nothing is masked
        x = x + (shares @ v).transpose(0, 1).flatten(-2) @ block["attn_out"].T
        given = norm(x, block["ff_norm"])
        x = x + (functional.silu(given @ block["ff_proj"].T) * (given @ block["up_proj"].T)) @ block["ff_out"].T
    return norm(x, part["ln_f.weight"]) @ part["ff_out.weight"].T


@pytest.mark.parametrize("shards", [1, 3])
@torch.inference_mode()
def test_llada_computes_its_papers_formulas(tmp_path: Path, shards: int) -> None:
    """Catches a tensor under another's name, a causal mask, other positions, or a shard that is not read."""
    weights = llada_weights()
    net = llada.load_network(write_folder(tmp_path / "llada", LLADA_CONFIG, weights, shards=shards), LLADA_CONFIG)
    tokens = [3, 80, MASK_ID, 7, MASK_ID, 200]
    found = net.model.lm_head(net._states(net.prefix(1), Block.of([tokens])))[0]
    torch.testing.assert_close(found, llada_logits(weights, tokens), rtol=0, atol=1e-5)
    assert (net.mask_id, net.stop_ids, net.shifted) == (MASK_ID, {EOS_ID}, False)


@torch.inference_mode()
def test_dream_reads_each_position_from_the_state_before_it(tmp_path: Path) -> None:
    """Catches Dream read without its shift, or with weights that are not its own."""
    qwen = network("qwen2").model
    weights = {name: tensor.clone() for name, tensor in qwen.state_dict().items()}
    net = dream.load_network(write_folder(tmp_path / "dream", DREAM_CONFIG, weights), DREAM_CONFIG)
    tokens = [3, 80, MASK_ID, 7, MASK_ID, 200]
    full = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    logits = qwen(input_ids=torch.tensor([tokens]), attention_mask=full, use_cache=False).logits[0]
    logits[:, MASK_ID] = -torch.inf
    share, token = net.read(net.prefix(1), Block.of([tokens]), torch.tensor([[one == MASK_ID for one in tokens]]))
    assert token.tolist() == [int(logits[at - 1].argmax()) for at in (2, 4)]
    wanted = [float(logits[at - 1].float().softmax(-1).max()) for at in (2, 4)]
    torch.testing.assert_close(share.tolist(), wanted)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_a_folder_becomes_a_writer(tmp_path: Path, family: str) -> None:
    """Catches a folder that loads and cannot write, and answers that change between two loads."""
    if family == "llada":
        folder = write_folder(tmp_path / "tiny-llada", LLADA_CONFIG, llada_weights(), shards=2)
    else:
        weights = {name: tensor.clone() for name, tensor in network("qwen2").model.state_dict().items()}
        folder = write_folder(tmp_path / "tiny-dream", DREAM_CONFIG, weights)
        alphabet = {token: at for token, at in tokenizer().get_vocab().items() if at < 256}
        (folder / "vocab.json").write_text(json.dumps(alphabet))
        (folder / "merges.txt").write_text("#version: 0.2\n")
    written = [load_writer(folder).write([LOG], slots=4, end=None) for _ in range(2)]
    assert written[0] == written[1]
    assert not written[0][0].degraded
    assert load_writer(folder).name == f"tiny-{family}"
    assert isinstance(load_writer(folder), InfillingWriter)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"attention_layer_norm": True}, "attention_layer_norm=True"),
        ({"alibi": True}, "alibi=True"),
        ({"activation_type": "gelu"}, "activation_type='gelu'"),
        ({"n_layers": 3}, "do not fit"),
        ({"mlp_hidden_size": 64}, "do not fit"),
        ({"n_heads": None, "d_model": None}, "config.json of a LLaDA"),
        ({"model_type": "gpt2"}, "known are llada"),
    ],
)
def test_what_is_no_llada_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    """Catches a model that is computed wrongly in silence."""
    config = {name: value for name, value in (LLADA_CONFIG | change).items() if value is not None}
    with pytest.raises(ModelFolderError, match=told):
        load_writer(write_folder(tmp_path / "model", config, llada_weights()))


def test_missing_or_foreign_weights_are_refused(tmp_path: Path) -> None:
    """Catches weights that stay as they were drawn because a file or a name was wrong."""
    short = {name: tensor for name, tensor in llada_weights().items() if "ln_f" not in name}
    with pytest.raises(ModelFolderError, match="do not fit"):
        load_writer(write_folder(tmp_path / "a", LLADA_CONFIG, short))
    foreign = llada_weights() | {"model.transformer.blocks.0.q_norm.weight": torch.ones(32)}
    with pytest.raises(ModelFolderError, match="q_norm"):
        load_writer(write_folder(tmp_path / "b", LLADA_CONFIG, foreign))
    folder = write_folder(tmp_path / "c", LLADA_CONFIG, llada_weights(), shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelFolderError, match="lacks model-00002"):
        load_writer(folder)
    with pytest.raises(ModelFolderError, match=r"config\.json"):
        load_writer(tmp_path / "nowhere")


def test_tied_embeddings_need_no_head(tmp_path: Path) -> None:
    """Catches a LLaDA with `weight_tying`, whose file holds one tensor less."""
    weights = llada_weights()
    del weights["model.transformer.ff_out.weight"]
    config = LLADA_CONFIG | {"weight_tying": True}
    net = llada.load_network(write_folder(tmp_path / "tied", config, weights), config)
    assert torch.equal(net.model.lm_head.weight, net.model.model.embed_tokens.weight)


def gemma_folder(folder: Path) -> Path:
    """A tiny random DiffusionGemma, saved as Hugging Face saves it."""
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion, Gemma4VisionConfig

    text = {name: SHAPE[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads")}
    text |= {"num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "head_dim": 8}
    text |= {"global_head_dim": 8, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}
    text |= {"pad_token_id": 0, "eos_token_id": EOS_ID, "bos_token_id": 2}
    text |= {"layer_types": ["sliding_attention", "full_attention"]}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    seen = Gemma4VisionConfig(**vision, num_key_value_heads=2, head_dim=8, position_embedding_size=16)
    config = DiffusionGemmaConfig(text_config=text, vision_config=seen, canvas_length=48)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DiffusionGemmaForBlockDiffusion(config)
    model.generation_config.max_denoising_steps = 4
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_diffusion_gemma_answers_by_its_own_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a writer that reads the prompt as the answer, or answers the same log in two ways."""
    # It would import torch's whole compiler (15 s) for the CUDA graphs that a CPU has not.
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    writer = load_writer(gemma_folder(tmp_path / "gemma"))
    state = torch.random.get_rng_state()
    one, other = (writer.write([LOG], slots=2, end=None) for _ in range(2))
    assert one == other
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not {"green tea", "tea pot"} & {line.text for line in one[0].lines}
    assert writer.write([LOG], slots=2, end=float("-inf"))[0].degraded
