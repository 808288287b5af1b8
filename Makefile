# The two commands a newcomer needs are `make run` and `make test`; `make help` lists the rest.
# GNU make 3.81 or newer, or BSD make; all logic is in POSIX shell.
PORT ?=
ADMIN_PORT ?=
CONFIG ?=
PYTHON ?=
VENV = .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet
NO_PACKAGES = { echo "mirror: the packages could not be installed (pip says why above). This step needs" \
	"a network or, in PIP_INDEX_URL, a package index that can be reached; run the same command again." >&2; exit 1; }

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

run: $(VENV)/.runtime ## Start a Docker Hub mirror on :5000 (PORT=…, ADMIN_PORT=…, CONFIG=FILE)
	@if [ -n "$(PORT)" ]; then export MIRROR_SERVER__LISTEN="0.0.0.0:$(PORT)"; fi; \
	if [ -n "$(ADMIN_PORT)" ]; then export MIRROR_SERVER__ADMIN_LISTEN="127.0.0.1:$(ADMIN_PORT)"; fi; \
	if [ -n "$(CONFIG)" ]; then exec $(BIN)/mirror serve --config "$(CONFIG)"; fi; \
	exec $(BIN)/mirror serve

# Three processes read 240 files of tests: what they made of them is kept for the next time.
test: $(VENV)/.dev ## Run the fast tests with coverage (no root, no network)
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )) --dist worksteal --cov --cov-report=term

workers: $(VENV)/.dev ## Test several processes on one port: real ones, and the fast tests with four
	$(BIN)/pytest tests/workers
	MIRROR_TEST_WORKERS=4 $(BIN)/pytest -n auto tests/unit/web tests/unit/service tests/unit/transfer \
	  tests/unit/upstream tests/unit/test_app.py tests/unit/test_reloading.py \
	  tests/unit/test_isolation_of_waiting.py

lint: $(VENV)/.dev ## Check format, style, types and the import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Format the code and apply safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

e2e: $(VENV)/.e2e ## Pull with real clients through real registries (root, Debian, Go; installs packages)
	tests/e2e/install
	$(BIN)/pytest tests/e2e

conformance: $(VENV)/.dev ## Run the official OCI conformance suite against the mirror (needs Go)
	PYTHON=$(BIN)/python tests/conformance/run

never-worse: $(VENV)/.dev ## Pull with real clients while upstream is in trouble (root); writes docs/never-worse.md
	@mkdir -p build
	$(BIN)/python -m tests.never_worse > build/never-worse.md
	@mv build/never-worse.md docs/never-worse.md

budget: $(VENV)/.dev ## A day of pulls within Docker Hub's limit, beside docker-registry; writes docs/pull-budget.md
	@mkdir -p build
	$(BIN)/python -m tests.budget > build/pull-budget.md
	@mv build/pull-budget.md docs/pull-budget.md

bench: $(VENV)/.dev ## Measure the mirror beside docker-registry, distribution 3 and nginx (root, Debian; writes docs/benchmarks/)
	tests/bench/install
	$(BIN)/python -m tests.bench --size 900 --output docs/benchmarks $(BENCH)

crash: $(VENV)/.dev ## Kill a working mirror 300 times and check what is left (KILLS=…, SEED=…)
	$(BIN)/python -m tests.crash --kills $${KILLS:-300} $${SEED:+--seed $$SEED}

soak: $(VENV)/.dev ## Mixed load with faults for 10 minutes: does anything grow? (SOAK=1h)
	$(BIN)/python -m tests.soak $${SOAK:-10m}

fuzz: $(VENV)/.fuzz ## Fuzz all that reads foreign input, each for a minute (FUZZ=10m; Linux on x86-64)
	$(BIN)/python -m tests.fuzz $${FUZZ:-60s}

reliability: crash ## Run the faults and the kills, and write docs/reliability.md from them
	@mkdir -p build
	$(BIN)/python -m tests.tools.reliability_reference > build/reliability.md
	@mv build/reliability.md docs/reliability.md

cluster: $(VENV)/.e2e ## Apply overlays and chart to a real kube-apiserver (root, Debian, Go; builds it)
	tests/e2e/install
	tests/cluster/install
	$(BIN)/pytest tests/cluster

scan: $(VENV)/.e2e build/checkov/bin/checkov ## Scan the image's file and all manifests with checkov: is every finding explained?
	$(BIN)/python -m tests.tools.scan build/checkov/bin/checkov

build: $(VENV)/.runtime ## Build the wheel into dist/
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/mirror-*.whl

release: $(VENV)/.runtime ## Build the wheel, its bill of materials, licences and checksums into dist/
	rm -rf dist build/release
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python -m venv --without-pip build/release
	$(PIP) --python build/release/bin/python install --no-deps --require-hashes -r requirements/runtime.txt
	$(PIP) --python build/release/bin/python install --no-deps dist/mirror-*.whl
	build/release/bin/python deploy/sbom.py dist/mirror.cdx.json
	build/release/bin/python deploy/licences.py requirements/runtime.txt > dist/licences.md
	cd dist && sha256sum mirror-*.whl mirror.cdx.json licences.md > SHA256SUMS
	@cat dist/SHA256SUMS

clean: ## Remove the virtual environment and everything that was built
	rm -rf $(VENV) build dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache \
	  .hypothesis .import_linter_cache
	find mirror tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: cluster scan help run test workers lint format e2e conformance never-worse budget bench crash soak fuzz reliability build release clean

# In an environment of its own: it brings a hundred packages along.
build/checkov/bin/checkov: $(BIN)/python
	@$(BIN)/python -m venv build/checkov && build/checkov/bin/python -m pip --disable-pip-version-check --quiet \
	  install checkov==3.3.30 || $(NO_PACKAGES)

# The first of these that is new enough, or the one that PYTHON names.
$(BIN)/python:
	@named="$(PYTHON)"; \
	for python in $${named:-python3 python3.14 python3.13 python3.12 python3.11}; do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  "$$python" -m venv $(VENV) && exit 0; \
	  rm -rf $(VENV); \
	  echo "mirror: $$python cannot make a virtual environment;" \
	    "on Debian and Ubuntu: apt install python3-venv" >&2; \
	  exit 1; \
	done; \
	echo "mirror: Python 3.11 or newer is needed; $${named:-python3 on the PATH} is older or not there;" \
	  "install it, or name it: make … PYTHON=/path/to/python3" >&2; \
	exit 1

$(VENV)/.runtime: $(BIN)/python requirements/runtime.txt requirements/build.txt pyproject.toml
	@echo "mirror: installing into $(VENV) (only the first time, and when the requirements change)"
	@$(PIP) install --no-deps --require-hashes -r requirements/build.txt -r requirements/runtime.txt \
	  && $(PIP) install --no-deps --no-build-isolation --editable . || $(NO_PACKAGES)
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	@$(PIP) install --no-deps --require-hashes -r requirements/dev.txt || $(NO_PACKAGES)
	@touch $@

$(VENV)/.fuzz: $(VENV)/.dev requirements/fuzz.txt
	@$(PIP) install --no-deps --require-hashes -r requirements/fuzz.txt || $(NO_PACKAGES)
	@touch $@

$(VENV)/.e2e: $(VENV)/.dev requirements/e2e.txt
	@$(PIP) install --no-deps --require-hashes -r requirements/e2e.txt || $(NO_PACKAGES)
	@touch $@
