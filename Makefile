# Sets up .venv with the versions of constraints.txt and runs the project's commands; `make help` lists them.

# The first Python >= 3.11 found, or PYTHON=/path/to/python.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# cpu, or cuda for the torch build with GPU packages; an environment keeps what it was made with.
TORCH ?= $(if $(wildcard $(VENV)/.torch-cuda),cuda,cpu)
ARGS ?=
# Tests side by side; each on one thread, as most of them are short.
PROCESSES ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP := $(BIN)/python -m pip install -q --no-compile --no-build-isolation -c constraints.txt

.PHONY: help demo test lint docs wheel environment clean
.DEFAULT_GOAL := help

help:  ## list these commands
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1	/p' Makefile

demo: $(VENV)/.core  ## record, train, plan, forecast; writes runs/demo/report.html
	$(BIN)/foretell demo $(ARGS)

test: $(VENV)/.dev  ## run the tests (ARGS="-k name" for some of them)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile $(ARGS)

lint: $(VENV)/.dev  ## ruff, mypy --strict and the direction of imports
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.dev  ## write site/ from docs/ and the docstrings
	$(BIN)/python tools/build_docs.py site

wheel: $(VENV)/.dev  ## write dist/
	$(BIN)/python -m build --no-isolation --outdir dist .

environment: $(VENV)/.dev  ## only make .venv, with what development needs

clean:  ## remove .venv and everything built; runs/ stays
	rm -rf $(VENV) build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/.python:
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: foretell needs Python 3.11 or newer; $(if $(PYTHON),'$(PYTHON)' is none,none was found)." \
	    "Install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "make: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.torch-$(TORCH): $(VENV)/.python constraints.txt
	@echo "Installing torch, $(TORCH) build (200 MB for cpu) ..."
	@$(BIN)/python tools/install_torch.py $(TORCH)
	@touch $@

$(VENV)/.core: $(VENV)/.torch-$(TORCH) pyproject.toml
	@echo "Installing foretell and what it needs ..."
	@$(PIP) setuptools
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "Installing what tests, checks and docs need ..."
	@$(PIP) -e '.[dev,docs,robots]'
	@# The reference of the glucose tests, of which they need the patients alone, not the Gym of 2017 that it names.
	@$(PIP) --no-deps simglucose
	@touch $@
