# make help says what there is. Everything is installed into .venv here; nothing outside this folder is touched,
# except by `make system-deps`, which installs Debian packages and needs root.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check lint bench toil system-deps clean

# The first Python on the path that is new enough; another one by: make PYTHON=/path/to/python demo
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BENCH := .venv-bench
TOIL := .venv-toil
BIN := $(VENV)/bin
DEPS := chromium openssh-server openssh-client iproute2 slurmctld slurmd slurm-client slurmdbd mariadb-server slurmrestd munge slurm-wlm-basic-plugins slurm-wlm-jwt-plugin libpam-oath charliecloud squashfs-tools r-base-core r-cran-irkernel
PYTEST_ARGS ?= -n 3 --dist loadfile --no-loadscope-reorder
BENCH_ARGS ?=

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(VENV)/.installed ## run demo_notebooks/01_equation_of_state.ipynb as a workflow, with live progress (about a minute)
	@$(BIN)/python demo_notebooks/run_demo.py

test: lint ## everything: style, types, layers and all tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: lint ## style, types, layers and the unit tests (under a minute)
	$(BIN)/python -m pytest -q -n0 tests/unit

lint: $(VENV)/.installed ## style, types and layers only
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed $(BENCH)/.installed ## measure, side by side with papermill and Snakemake (some minutes); BENCH_ARGS="--only steps attach"
	@$(BIN)/python tests/benchmarks/run.py --peers $(BENCH)/bin $(BENCH_ARGS)

toil: $(TOIL)/.installed ## Toil, another runner of CWL: a test uses it if it is there

system-deps: ## as root: Debian packages that some tests need
	@[ "$$(id -u)" = 0 ] || { echo "make system-deps installs packages: run it as root." >&2; exit 1; }
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get update -q
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(DEPS)

clean: ## remove what make made, the environments included
	rm -rf $(VENV) $(BENCH) $(TOIL) build dist demo_notebooks/out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .grimp_cache

define make_venv
	@[ -n "$(PYTHON)" ] || { echo "Kale needs Python 3.11 or newer, and none is on the path. On Debian or Ubuntu: apt-get install python3 python3-venv. Or: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$$($(PYTHON) --version) cannot make virtual environments. On Debian or Ubuntu: apt-get install python3-venv (or python3.11-venv, for that version)." >&2; exit 1; }
	@echo "Making $(1) with $$($(PYTHON) --version) ($$(command -v $(PYTHON)))"
	@$(PYTHON) -m venv $(1)
endef

$(VENV)/.installed: pyproject.toml
	$(call make_venv,$(VENV))
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m compileall -q kale_magic proxy/kale_proxy # pip does so for packages that are not editable
	@touch $@

$(BENCH)/.installed: Makefile
	$(call make_venv,$(BENCH))
	$(BENCH)/bin/python -m pip install --disable-pip-version-check papermill ipykernel snakemake submitit psij-python parsl snakemake-executor-plugin-slurm sshpyk
	@touch $@

$(TOIL)/.installed: Makefile
	$(call make_venv,$(TOIL))
	$(TOIL)/bin/python -m pip install --disable-pip-version-check 'toil[cwl]'
	@touch $@
