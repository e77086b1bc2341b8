"""What this machine computes fast."""

from __future__ import annotations

from pathlib import Path


def fast_bfloat16() -> bool:
    """Whether the CPU has bfloat16 instructions; without them bfloat16 is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def cuda() -> bool:
    """Whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()
