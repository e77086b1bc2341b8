"""Tokens a second of text diffusion in process, LLaDA-8B-shaped: `python -m benchmarks.text_diffusion`.

Weights are random: the speed of a step does not depend on them, but how many tokens are sure in it does. So the pace is
given: the network computes as always, and then as many tokens a user and step count as sure as the row says (the
writer's own rule is in `models/text_diffusion/decoding.py`). In one run, on the same users:

- *block cache*: what `InfillingWriter` does, blocks of four slots over a cached prefix;
- *no cache*: the same tokens in one block, everything recomputed at each step, as LLaDA itself decodes;
- *autoregressive*: the same network one token after the other over a key-value cache.

Needs a GPU with 24 GB; `--tiny` runs a toy on any machine, whose figures mean nothing. The last line is JSON. Keys:
device, tiny, users, prompt_tokens, masked_tokens, tokens_per_s and users_per_s (by way and pace), cache_gain (block
cache over no cache at one token a step), over_autoregressive (block cache over autoregressive, by pace).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from models.text_diffusion.decoding import decode
from models.text_diffusion.infilling import SLOT_TOKENS, SLOTS_PER_BLOCK
from models.text_diffusion.llada import llama_config
from models.text_diffusion.network import Block, MaskedNetwork
from models.text_diffusion.prompt import MOST_SHOWN

PACES = (1, 2, 4, 8)
LLADA_8B: dict[str, Any] = {
    "d_model": 4096,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "mlp_hidden_size": 12_288,
    "vocab_size": 126_464,
    "max_sequence_length": 4096,
    "rope_theta": 500_000.0,
}
TINY = LLADA_8B | {
    "d_model": 64,
    "n_heads": 4,
    "n_kv_heads": 4,
    "n_layers": 2,
    "mlp_hidden_size": 128,
    "vocab_size": 1024,
}
MASK_ID = 1_000
"""Any one that every vocabulary has."""
TOKENS_PER_TITLE, LINE_TOKENS = 10, 3
"""Of a shown behavior; and of a slot's number and line end."""


class PacedNetwork(MaskedNetwork):
    """Reads what its weights say, and says it is sure of the first `pace` open tokens of each user."""

    pace = 1

    def read(self, prefix: Any, block: Block, open_: Tensor) -> tuple[Tensor, Tensor]:
        """See `MaskedNetwork.read`."""
        _, tokens = super().read(prefix, block, open_)
        rank = open_.cumsum(dim=1)[open_]  # 1 for a user's first open token
        return (rank <= self.pace).float(), tokens


def random_network(shape: dict[str, Any], device: torch.device) -> PacedNetwork:
    """A network of that shape in bfloat16, or float32 on a CPU, made on `device` at once."""
    config: LlamaConfig = llama_config(shape)
    kind: Any = LlamaForCausalLM  # untyped
    with torch.device("meta"):
        model = kind(config)
    model = model.to(torch.bfloat16 if device.type == "cuda" else torch.float32).to_empty(device=device)
    model.model.rotary_emb = LlamaRotaryEmbedding(config=config).to(device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0) if "norm" in name else parameter.normal_(std=0.02, generator=generator)
    return PacedNetwork(model, mask_id=MASK_ID, stop_ids=[])


def user_blocks(users: int, slots: int, device: torch.device) -> list[Block]:
    """A prompt of the most behaviors shown, and blocks of slots behind given numbers."""
    generator = torch.Generator().manual_seed(1)
    widths = [MOST_SHOWN * TOKENS_PER_TITLE] + [
        min(SLOTS_PER_BLOCK, slots - begun) * (LINE_TOKENS + SLOT_TOKENS) for begun in range(0, slots, SLOTS_PER_BLOCK)
    ]
    blocks = [torch.randint(0, MASK_ID, (users, width), generator=generator) for width in widths]
    for block in blocks[1:]:
        for begun in range(0, block.shape[1], LINE_TOKENS + SLOT_TOKENS):
            block[:, begun + 2 : begun + 2 + SLOT_TOKENS] = MASK_ID
    return [Block(tokens.to(device), torch.ones_like(tokens, dtype=torch.bool).to(device)) for tokens in blocks]


def joined(blocks: Sequence[Block]) -> Block:
    """The same tokens as one block."""
    return Block(torch.cat([one.tokens for one in blocks], 1), torch.cat([one.valid for one in blocks], 1))


@torch.inference_mode()
def autoregressive(network: MaskedNetwork, prompt: Tensor, tokens: int) -> None:
    """Write `tokens` tokens after `prompt` (B, T), one after the other."""
    cache = DynamicCache(config=network.model.config)
    given = prompt
    for _ in range(tokens):
        states = network.model.model(input_ids=given, past_key_values=cache, use_cache=True).last_hidden_state
        given = network.model.lm_head(states[:, -1:]).argmax(-1)  # (B, 1)


def seconds(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """The shortest of `rounds` runs, after one that is not counted."""
    taken = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])


def measure(shape: dict[str, Any], users: int, slots: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """See the module's docstring."""
    network = random_network(shape, device)
    blocks = user_blocks(users, slots, device)
    whole = joined(blocks)
    masked = int((whole.tokens[0] == MASK_ID).sum())
    took: dict[str, float] = {}
    for pace in PACES:
        network.pace = pace
        took[f"block cache, {pace}"] = seconds(lambda: decode(network, blocks), device, rounds)
    for pace in (1, 4):
        network.pace = pace
        took[f"no cache, {pace}"] = seconds(lambda: decode(network, [whole]), device, rounds)
    took["autoregressive, 1"] = seconds(lambda: autoregressive(network, blocks[0].tokens, masked), device, rounds)
    rates = {way: users * masked / second for way, second in took.items()}
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "users": users,
        "prompt_tokens": blocks[0].tokens.shape[1],
        "masked_tokens": masked,
        "tokens_per_s": {way: round(rate, 1) for way, rate in rates.items()},
        "users_per_s": {way: round(rate / masked, 3) for way, rate in rates.items()},
        "cache_gain": round(rates["block cache, 1"] / rates["no cache, 1"], 2),
        "over_autoregressive": {
            str(pace): round(rates[f"block cache, {pace}"] / rates["autoregressive, 1"], 2) for pace in PACES
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--users", type=int, default=16, help="decoded together")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a toy network: checks that this runs, measures nothing")
    options = parser.parse_args(argv)
    if not options.tiny and not torch.cuda.is_available():
        print(
            "LLaDA-8B-shaped weights need a GPU with 24 GB, and torch sees none here; "
            "`--tiny` checks on a toy network that the benchmark runs.",
            file=sys.stderr,
        )
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = measure(TINY if options.tiny else LLADA_8B, options.users, options.slots, options.rounds, device)
    print(f"{'way, tokens a step':22s} {'tokens/s':>10s} {'users/s':>9s}")
    for way, rate in result["tokens_per_s"].items():
        print(f"{way:22s} {rate:10.1f} {result['users_per_s'][way]:9.3f}")
    print(json.dumps({"tiny": options.tiny, **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
