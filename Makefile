# The two commands a newcomer needs are `make run` and `make test`; `make help` lists the rest.
PORT ?= 5000
ADMIN_PORT ?= 5001
CONFIG ?=
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v "$$p" && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help run test lint format e2e conformance bench build clean

help: ## List the targets
	@grep -hE '^[a-z0-9_-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: $(VENV)/.runtime ## Start a Docker Hub mirror on :5000 (PORT=…, ADMIN_PORT=…, CONFIG=FILE)
	@MIRROR_SERVER__LISTEN=$${MIRROR_SERVER__LISTEN:-0.0.0.0:$(PORT)} \
	MIRROR_SERVER__ADMIN_LISTEN=$${MIRROR_SERVER__ADMIN_LISTEN:-127.0.0.1:$(ADMIN_PORT)} \
	MIRROR_LOG__FORMAT=$${MIRROR_LOG__FORMAT:-console} \
	exec $(BIN)/mirror serve $(if $(CONFIG),--config $(CONFIG))

test: $(VENV)/.dev ## Run the fast tests with coverage (under 2 minutes, no root, no network)
	$(BIN)/pytest --cov --cov-report=term

lint: $(VENV)/.dev ## Check format, style, types and the import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Format the code and apply safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

e2e: $(VENV)/.dev ## Pull with real clients through a real registry (root, Debian; installs packages)
	tests/e2e/install
	$(BIN)/pytest tests/e2e

conformance: $(VENV)/.dev ## Run the official OCI conformance suites against the mirror (needs Go)
	PATH=$(CURDIR)/$(BIN):$$PATH tests/conformance/run

bench: $(VENV)/.dev ## Measure the mirror beside Debian's docker-registry, same run, same machine
	$(BIN)/python -m tests.bench

build: $(VENV)/.dev ## Build the wheel into dist/
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

clean: ## Remove the virtual environment and everything that was built
	rm -rf $(VENV) build dist .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "mirror: Python 3.11 or newer is needed; install it or set PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "mirror: $(PYTHON) cannot make a virtual environment;" \
	  "on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(VENV)/.runtime: $(BIN)/python requirements/runtime.txt requirements/build.txt pyproject.toml
	$(PIP) install --require-hashes -r requirements/build.txt -r requirements/runtime.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@
