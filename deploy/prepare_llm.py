"""Prepares the language model and its vLLM environment without the rest of Freshet, and serves it: for a container.

Imports `models.encoder.weights` and `models.llm.vllm_server` only, which need the standard library alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from models.encoder.weights import ensure_vllm_env, prepare_llm
from models.llm.vllm_server import vllm_command


def say(stage: str, done: float, total: float) -> None:
    """One line a step: this runs in a build log."""
    print(f"{stage} ({done:g}/{total:g})", flush=True)


def main() -> None:
    """Prepare; with `--serve PORT` become the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=int, metavar="PORT")
    port = parser.parse_args().serve
    home = Path(os.environ["FRESHET_HOME"])
    python = ensure_vllm_env(home, say)
    weights = prepare_llm(home, say)
    if port is not None:
        command = vllm_command(python, weights, port, host="0.0.0.0", cpus=os.sched_getaffinity(0))
        os.environ.update(command.env)
        sys.stdout.flush()
        os.execv(command.argv[0], list(command.argv))


if __name__ == "__main__":
    main()
