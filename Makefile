# `make help` lists the targets. Nothing is needed before them but Python 3.11+ with venv, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help run demo test check format clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.runtime: requirements.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements.txt requirements-dev.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-dev.txt
	@touch $@ $(VENV)/.runtime

run: $(VENV)/.runtime ## the server on http://localhost:5000, with an embedded S3 store unless STORAGE_URL is set
	@exec $(BIN)/python server.py

demo: $(VENV)/.dev ## one sync of thousands of files through HTTP, watched to its end and checked with rclone
	@$(BIN)/python scripts/demo.py

test: $(VENV)/.dev ## all tests, those against real S3 servers included
	$(BIN)/python -m pytest

check: $(VENV)/.dev ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## rewrite the code in the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environment and caches; never uploads, jobs or storage
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
