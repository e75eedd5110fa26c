# Yantai: every door of the house. `make help` prints these comments.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= quickstart
TORCH := torch>=2.10,<2.14
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist worksteal
ON_ONE_GPU := -n logical --maxprocesses 14 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-fast test-cuda check format bench docs clean

help:  ## print this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# TORCH_INDEX=URL takes PyTorch from that index first: the CPU or CUDA build of your choice
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet "$(TORCH)" --index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

install: $(VENV)/.installed  ## create the environment and install what users need

quickstart: $(VENV)/.installed  ## the whole life of a model on this machine, in about five minutes
	$(BIN)/yantai quickstart --out $(OUT)

test: $(VENV)/.installed-dev  ## create the environment, install, run every test
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE)

test-fast: $(VENV)/.installed-dev  ## the tests for every commit, under 90 seconds
	$(BIN)/python -m pytest -q -m "not slow" $(SIDE_BY_SIDE)

test-cuda: $(VENV)/.installed-dev  ## the tests that need a GPU; the others do not see it
	$(BIN)/python -m pytest -q -m cuda $(ON_ONE_GPU)

check: $(VENV)/.installed-dev  ## format, lint, types, import floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.installed-dev  ## rewrite the files in the house's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-dev  ## measure this machine's ceilings, then ours against the peers, A B A B
	$(BIN)/python -m bench

docs: $(VENV)/.installed-docs  ## write the generated pages of docs/, check every link, build site/
	COLUMNS=80 $(BIN)/python docs/build.py
	$(BIN)/zensical build --clean --strict

clean:  ## remove the environment and caches; runs and data stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
