# The commands people run are the commands CI runs. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Debian packages: the pictures of the demo; what the tests visit the service with.
DEMO_PACKAGES := dataset-fashion-mnist
TEST_PACKAGES := chromium curl
ARGS ?=

.PHONY: help setup demo test lint format bench lock demo-packages test-packages clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

setup: $(READY) ## make .venv and install everything pinned in requirements.lock

demo: $(READY) demo-packages ## train, export, extract, search and serve on real pictures (ARGS=--no-serve ends by itself)
	@$(BIN)/lookalike demo $(ARGS)

test: $(READY) demo-packages test-packages ## run every test (ARGS="tests/images -k jpeg" runs some)
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(READY) ## check style, types, import directions and dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/oxlint --config .ci/oxlint.json serving/http/web
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/check_structure.py
	$(BIN)/deptry .
	$(BIN)/python .ci/audit.py

format: $(READY) ## format the code and apply safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) demo-packages ## run every benchmark in its short form (ARGS="--full" for the long one)
	@set -e; for file in $$(grep -l -e '"--short"' benchmarks/*.py); do \
	  name=$$(basename $$file .py); echo "== $$name"; \
	  $(BIN)/python -m benchmarks.$$name $(if $(filter --full,$(ARGS)),,--short); done

lock: ## pin requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --extra train --extra serve --extra remote --extra tiff --extra heif --extra milvus --extra ray \
	  --extra bench --extra dev --universal --python-version 3.11 --generate-hashes --no-header --quiet --upgrade -o requirements.lock

clean: ## remove the virtual environment, caches and the demo's output
	rm -rf $(VENV) demo-run .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

# The virtual environment: made once, renewed when the lock or the packaging changes.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Lookalike needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) --no-print-directory \
	  debian-packages PACKAGES="python3-venv" REQUIRED=yes
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned packages into $(VENV) (some gigabytes, a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo-packages:
	@$(MAKE) --no-print-directory debian-packages PACKAGES="$(DEMO_PACKAGES)"

test-packages:
	@$(MAKE) --no-print-directory debian-packages PACKAGES="$(TEST_PACKAGES)"

# Installs what is missing of PACKAGES: as root, with sudo where it asks for no password, else it says
# the command to type. Only a REQUIRED package stops the work: the rest goes on without, and says so.
.PHONY: debian-packages
debian-packages:
	@command -v dpkg-query >/dev/null || exit 0; \
	missing=""; for package in $(PACKAGES); do \
	  dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed || missing="$$missing $$package"; \
	done; \
	test -n "$$missing" || exit 0; \
	if [ "$$(id -u)" = 0 ]; then as_root=env; \
	elif sudo -n true 2>/dev/null; then as_root=sudo; \
	else \
	  echo "Missing Debian packages. Type once: sudo apt-get install$$missing"; \
	  test -z "$(REQUIRED)"; exit; \
	fi; \
	echo "Installing Debian packages:$$missing"; \
	$$as_root apt-get update -qq && \
	$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null
