# What people and CI run. `make` alone lists the targets.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
# The stamp's name holds a checksum of what it depends on: a fresh checkout with new
# file times does not install again, and a changed dependency does.
KEY := $(shell cat pyproject.toml constraints.txt | cksum | tr ' ' '-')
STAMP := $(VENV)/.installed-$(KEY)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format slow clean

help:  ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 10

setup: $(STAMP)  ## Make .venv with everything installed

$(STAMP):
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "v2ir needs Python 3.11 or newer; got: $(PYTHON); to do: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo 'Installing into $(VENV): about two minutes and 1.3 GB'
	$(BIN)/python -m pip install -qq --no-compile -c constraints.txt -e '.[dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: setup  ## Translate the bundled photographs into demo/
	$(BIN)/v2ir demo

check: setup  ## Lint, format, docstrings and types, changing nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: check  ## check, then the tests
	$(BIN)/pytest -n $(WORKERS)

slow: setup  ## The tests that take minutes or gigabytes
	$(BIN)/pytest -m slow

format: setup  ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove the environment and every cache
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
