# From nothing but Python >= 3.11 and make: `make demo`, `make test`. See CONTRIBUTING.md for the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := torch==2.13.0
SIMULATOR := simglucose==0.2.11
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

.PHONY: help install peers peers-worldmodel demo test check bench clean

help:
	@echo "make install   .venv with everything that this project uses here"
	@echo "make peers     what others made and some evidence stands beside: oref0 (needs npm), d3rlpy, ICU-Sepsis"
	@echo "make peers-worldmodel   stable-worldmodel, whose task domain rooms has; 8 GB, apart from the others"
	@echo "make demo      learn a world model, plan insulin for patients that it never saw, write a report"
	@echo "make test      all tests"
	@echo "make check     style, types, import contracts, module sizes"
	@echo "make bench     every benchmark script; results in benchmarks/results"
	@echo "make clean     remove caches; .venv and runs/ stay"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: foreworld needs Python 3.11 or newer, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)"; \
	  echo "       install one, or name it: make $(or $(MAKECMDGOALS),install) PYTHON=python3.12"; exit 1; }
	@echo "[1/4] virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "error: python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "[2/4] torch (the largest part)"
	@$(PIP) '$(TORCH)'
	@echo "[3/4] foreworld and its dependencies, at the versions of constraints.txt"
	@$(PIP) -c constraints.txt -e '.[treatment,report,scale,dev]'
	@echo "[4/4] simglucose, for its tables of virtual patients"
	@$(PIP) --no-deps '$(SIMULATOR)'
	@touch $@
	@echo "installed; next: make demo"

peers: install
	@$(PIP) --no-deps 'icu-sepsis==2.0.1' pandas
	@npm install --ignore-scripts --no-audit --no-fund --prefix runs/peers/oref0 oref0@0.7.1
	@$(PYTHON) -m venv runs/peers/offline_rl/venv
	@runs/peers/offline_rl/venv/bin/python -m pip install -qq --disable-pip-version-check '$(TORCH)'
	@runs/peers/offline_rl/venv/bin/python -m pip install -qq --disable-pip-version-check -r benchmarks/peers/offline_rl/requirements.txt

# The builds of torch for CPUs and torchvision of PyPI do not go together, so both are the builds of PyPI (===).
peers-worldmodel:
	@$(PYTHON) -m venv runs/peers/stable_worldmodel/venv
	@echo "[1/2] torch"
	@runs/peers/stable_worldmodel/venv/bin/python -m pip install -qq --disable-pip-version-check 'torch===2.13.0' 'torchvision===0.28.0'
	@echo "[2/2] stable-worldmodel and what foreworld needs beside it"
	@runs/peers/stable_worldmodel/venv/bin/python -m pip install -qq --disable-pip-version-check -r benchmarks/peers/stable_worldmodel/requirements.txt

demo: install
	@$(BIN)/foreworld demo

test: install
	@$(BIN)/python -m pytest

check: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@find src -name '*.py' -exec wc -l {} + | awk '$$2 != "total" && $$1 > 400 { print $$2 ": " $$1 " lines, more than 400; split it by idea"; bad = 1 } END { exit bad }'

bench: install
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

clean:
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks
	@find . -path ./$(VENV) -prune -o -path ./runs -prune -o -name __pycache__ -type d -exec rm -rf {} +
	@echo "caches removed; $(VENV) and runs/ are kept (runs/ may hold patient data: docs/privacy.md)"
