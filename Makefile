.DEFAULT_GOAL := help
.PHONY: help install train test lint types tensorboard wheel bench soak clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with gpuopt and its pinned dependencies

$(STAMP): pyproject.toml constraints.txt scripts/install
	@PYTHON="$(PYTHON)" VENV="$(VENV)" scripts/install
	@touch $@

train: $(STAMP) ## train: make train ARGS="gpu=rtx3060 tta=essential"
	@$(BIN)/python -m gpuopt.train $(ARGS)

test: $(STAMP) ## lint, types and tests
	@scripts/check && scripts/test $(ARGS)

lint: $(STAMP) ## ruff
	@scripts/lint

types: $(STAMP) ## mypy
	@$(BIN)/python -m mypy

tensorboard: $(STAMP) ## open TensorBoard on all runs
	@scripts/tensorboard $(ARGS)

wheel: $(STAMP) ## build the wheel into dist/
	@$(BIN)/python -m build --wheel --no-isolation

bench: $(STAMP) ## run the benchmark programs that need no GPU
	@$(BIN)/python -m benchmarks $(ARGS)

soak: $(STAMP) ## kill runs 200 times at random and compare them to the bit
	@$(BIN)/python -m benchmarks soak $(ARGS)

clean: ## remove what was built; runs under outputs/ stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
