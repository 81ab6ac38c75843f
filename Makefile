# `make run` and `make test` do all set-up. To choose a Python: make run PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin
# For instance: make run ARGS="--profile profiles/gpu"
ARGS ?=
# One test process per core, each with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses logical --maxprocesses 8 --dist worksteal
SLOW := $(BIN)/pytest -m slow --durations 12

.PHONY: help run test test-slow test-slurm slurm lint format schema dag lock setup clean

run: setup  ## run the workflow of config/config.yaml and write results/report.html
	@$(BIN)/terse run $(ARGS)

help:  ## the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 12

test: setup  ## the fast tests
	@$(PYTEST) -m "not slow" tests

# The cluster's tests mostly wait, so the workflow's tests run at the same time; both use one finished
# workflow. The output of the cluster's tests, and of the slow unit tests that follow them, is
# printed last.
test-slow: setup slurm  ## end to end: kills, resumes, trained known answers, browser, SLURM
	@log=$$(mktemp); export TERSE_FINISHED=$$(mktemp -d); \
	{ $(SLOW) tests/slurm; first=$$?; OMP_NUM_THREADS=1 $(SLOW) tests/unit && exit $$first; } \
		>$$log 2>&1 & cluster=$$!; \
	status=0; $(SLOW) --ignore=tests/slurm --ignore=tests/unit tests || status=$$?; \
	wait $$cluster || status=$$?; cat $$log; rm -rf $$TERSE_FINISHED*; exit $$status

test-slurm: setup slurm  ## the workflow on a real SLURM cluster, started here for the tests
	@$(BIN)/pytest -m slow tests/slurm

slurm:
	@tests/slurm/install.sh

setup:
	@$(PYTHON) -I src/terse/launch/install.py

lint: setup  ## style and types
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/snakefmt --check Snakefile rules
	@$(BIN)/basedpyright --level error

format: setup
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .
	@$(BIN)/snakefmt Snakefile rules

schema: setup  ## config/schema.json and the keys in config/README.md, from the code
	@$(BIN)/terse schema

dag: setup  ## the graph of the rules in docs/rules.md
	@$(BIN)/terse dag

lock: setup  ## pin what is installed and was tested
	@$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock

clean:  ## delete results, caches and states
	@rm -rf results cache state logs .snakemake
