# Each target does all its set-up itself: a fresh machine needs Python 3.11 or newer and make, no more.
PYTHON ?= $(shell for name in python3.11 python3 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint bench clean

help:
	@echo "make demo       the whole story on made-up data, into demo-out/"
	@echo "make test       lint, types and the fast tests"
	@echo "make test-slow  the tests that train on real data, and new examples for the property tests"
	@echo "make lint       lint and types alone"
	@echo "make bench      the methods on real data (HISTILL_DATA)"
	@echo "make clean      remove what the others made"

# The stamp is written last, so that an interrupted set-up is gone on with.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "histill needs Python 3.11 or newer: install it, or name it: make PYTHON=..."; exit 1; }
	@echo "Setting up $(VENV): several GB, a few minutes the first time ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

demo: $(READY)
	$(BIN)/histill demo --to demo-out

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -m "not slow" -n 2

test-slow: $(READY)
	$(BIN)/pytest -m slow -o timeout=3600
	$(BIN)/pytest -m "hypothesis and not slow" --hypothesis-profile=search -n 2

bench: $(READY)
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/mhkd.py

clean:
	rm -rf $(VENV) demo-out dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
