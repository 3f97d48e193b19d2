# Everything runs from .venv, built from uv.lock. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.setup-stamp
# Each worker starts servers of its own.
TEST_WORKERS ?= 2
# A test with real servers that fails is run once more, three of them at the most; both outcomes are printed.
TEST_RERUNS ?= 1
TEST_RERUNS_MAX := 3
RERUN_OPTIONS := --reruns $(TEST_RERUNS) --max-suite-reruns $(TEST_RERUNS_MAX) --rerun-show-tracebacks \
  $(addprefix --rerun-exclude-path=tests/,unit properties simulation test_tidy.py)
# uv from PATH, or else from PyPI into .uv.
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)

# Use the machine's Python; never fetch another one.
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := $(VENV)

# Where it is set, each of the some hundred processes of the tests compiles all it imports: 2.5 s instead of 0.7 s.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-containers check bench lock simulate faults

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Build .venv with every extra from uv.lock (does nothing when it is up to date)

demo: setup ## Replicate a live workload between two embedded PostgreSQL servers over an embedded Kafka
	$(VENV)/bin/headrace demo

test: setup check ## Run the checks, then every test but those with containers
	$(VENV)/bin/pytest -n $(TEST_WORKERS) --dist worksteal $(RERUN_OPTIONS) -m "not containers"

# Ryuk, testcontainers' own cleaner, comes from a registry that may be out of reach; the label does as well.
test-containers: setup ## Build the missing images, then run the tests with containers (needs a Docker engine)
	@images=$$(docker/build) && echo "$$images" && \
	  trap 'docker ps -aq --filter label=org.testcontainers=true | xargs -r docker rm -fv >/dev/null; \
	    docker network ls -q --filter label=org.testcontainers=true | xargs -r docker network rm >/dev/null' EXIT && \
	  env $$images TESTCONTAINERS_RYUK_DISABLED=true TESTCONTAINERS_HOST_OVERRIDE=127.0.0.1 \
	    TESTCONTAINERS_CONNECTION_MODE=docker_host $(VENV)/bin/pytest -m containers $(RERUN_OPTIONS) --durations=10

check: setup ## Lint, format check, types, direction of imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: setup ## Run all benchmarks; `make bench-NAME ARGS=--help` tells of one
	$(VENV)/bin/python -m benchmarks

SEEDS ?= 1000
simulate: setup ## Random histories with faults, SEEDS=100000 of them; SEED=N runs one and prints it
	$(VENV)/bin/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

bench-%: setup
	$(VENV)/bin/python -m benchmarks $* $(ARGS)

REPETITIONS ?= 1
faults: setup ## Every fault scenario, REPETITIONS=n times, K=name for some of them; prints a table
	$(VENV)/bin/python -m tests.faults --repetitions $(REPETITIONS) $(if $(K),-k "$(K)")

lock: $(UV) ## Resolve the newest allowed versions into uv.lock
	$(UV) lock --upgrade --python "$$(command -v $(PYTHON))"

$(STAMP): pyproject.toml uv.lock hatch_build.py $(wildcard */*.pyx */*/*.pyx) | $(UV)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "headrace needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one with: make setup PYTHON=python3.12" >&2; exit 1; }
	$(UV) sync --locked --all-extras --python "$$(command -v $(PYTHON))"
	@touch $@

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet 'uv>=0.8'
