# make demo   real folders through a bridge on this machine, in under a minute
# make test   lint, types and all tests
# make lint   style, types, import fences, shell scripts
# make docs   config.example.yaml and docs/configuration.md from the settings
# make clean  what make made

PYTHON ?= python3
PYTEST_ARGS ?= -n auto

# The virtual environment: .venv here; where this folder belongs to somebody else, one of your own.
ifeq ($(origin VENV), undefined)
MINE := nomad-bridge/$(shell echo '$(CURDIR)' | cksum | tr ' ' -)
VENV := $(shell \
	if [ -w .venv ] || { [ ! -e .venv ] && [ -w . ]; }; then echo '$(CURDIR)/.venv'; \
	elif [ -w "$$HOME" ]; then echo "$$HOME/.cache/$(MINE)"; \
	else echo "$${TMPDIR:-/tmp}/$$(id -un)-$(MINE)"; fi)
# The name in the last case can be guessed: never use what somebody else put there.
CHECK_OWNER := test -O '$(dir $(VENV)).' || { echo '$(dir $(VENV)) is not yours; give make VENV=FOLDER' >&2; exit 1; }
endif
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# Paths of other Pythons would be mixed into ours.
unexport PYTHONHOME PYTHONPATH
export PIP_ROOT_USER_ACTION := ignore

# The public client, with libraries of other versions than ours, for tests only.
export BRIDGE_TEST_LERULI := $(VENV)/leruli
LERULI := $(BRIDGE_TEST_LERULI)/bin/leruli

# Caches stay out of the checkout, which may be read-only.
export HYPOTHESIS_STORAGE_DIRECTORY := $(VENV)/cache/hypothesis
export MYPY_CACHE_DIR := $(VENV)/cache/mypy
export RUFF_CACHE_DIR := $(VENV)/cache/ruff

.PHONY: demo test lint docs clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	@$(BIN)/nomad-bridge demo

test: lint $(LERULI)
	@$(BIN)/python -m pytest -q -o cache_dir=$(VENV)/cache/pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo

docs: $(VENV)/.installed
	@$(BIN)/python -m bridge.config_docs
	@$(BIN)/python -m bridge.cli.reference

clean:
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache $(VENV)
	find bridge tests bench -name __pycache__ -prune -exec rm -rf {} +

# Made once, and again when the dependencies change: offline, nothing is fetched.
$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	@echo "Installing into $(VENV)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	@echo "Installing, with what tests need, into $(VENV)"
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(LERULI): | $(VENV)/.installed-dev
	@$(BIN)/python -m tests.support.leruli || echo 'Tests with the public client will be skipped' >&2

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say which: make PYTHON=python3.11")'
	@(umask 077 && mkdir -p '$(dir $(VENV))')
	@$(CHECK_OWNER)
	@$(PYTHON) -m venv '$(VENV)' || { rm -rf '$(VENV)'; echo 'On Debian: apt-get install python3-venv' >&2; exit 1; }
