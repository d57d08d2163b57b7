# domicile: everything runs inside .venv, made by `make setup`.
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
ARGS   ?=
# Tests mostly wait for servers and processes: three at once fill two cores.
WORKERS ?= 3
SEEDS ?= 10000
SCHEMAS ?= 200

.DEFAULT_GOAL := help
.PHONY: help setup demo test campaign model simulate chaos schemas mutants fuzz oracle page lint format bench clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1|/' | awk -F'|' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv and install domicile with its development tools

# The first interpreter that is new enough; its venv module is checked so that the message names the missing package.
$(STAMP): pyproject.toml
	@py=""; for c in python3.11 python3 python3.12 python3.13 python3.14; do \
	  if command -v $$c >/dev/null 2>&1 && $$c -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then py=$$c; break; fi; \
	done; \
	if [ -z "$$py" ]; then echo "domicile needs Python 3.11 or newer: apt-get install python3 python3-venv" >&2; exit 1; fi; \
	if ! $$py -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	  echo "$$py has no venv module: apt-get install python3-venv (then make setup again)" >&2; exit 1; fi; \
	[ -x $(BIN)/python ] || $$py -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup ## a whole move on embedded sites: make demo ARGS="--scale 2"
	@exec $(BIN)/domicile demo $(ARGS)

test: setup ## the tests: make test ARGS="-k guard"
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxschedchunk 2 $(ARGS)

campaign: setup ## the same tests in more variants: long runs that CI leaves out
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxschedchunk 2 -m campaign $(ARGS)

model: setup ## the handover explored state by state, by our own checker and by spin: make model ARGS="--bounds full"
	$(BIN)/python -m reliability.model $(ARGS)
	$(BIN)/python -m reliability.model.spin $(ARGS)

simulate: setup ## random worlds under virtual time and crashes: make simulate SEEDS=100000
	$(BIN)/python -m reliability.simulation --seeds $(SEEDS) --jobs 2 $(ARGS)

chaos: setup ## everything broken for real while users write, then schemas: make chaos ARGS="--minutes 60 --seed 7"
	$(BIN)/python -m reliability.chaos $(ARGS)
	$(BIN)/python -m reliability.schemas --count $(SCHEMAS) --jobs 2

schemas: setup ## random schemas moved while users write: make schemas SCHEMAS=500 ARGS="--seed 7 --json"
	$(BIN)/python -m reliability.schemas --count $(SCHEMAS) --jobs 2 $(ARGS)

mutants: setup ## bugs planted one by one, and which test catches each
	$(BIN)/python -m reliability.mutants $(ARGS)

fuzz: setup ## bad input: make fuzz ARGS="--inputs 1000000 --json"
	$(BIN)/python -m reliability.fuzz $(ARGS)

oracle: setup ## writers who know each acknowledged write, through handovers and rollbacks: make oracle ARGS="--minutes 60"
	$(BIN)/python -m reliability.oracle
	$(BIN)/python -m benchmarks.oracle $(ARGS)

page: setup ## docs/reliability.md, of the figures on record
	$(BIN)/python -m reliability.page

lint: setup ## ruff, strict types, import contracts, size budgets
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/style

format: setup ## rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## the benchmarks: make bench ARGS="--json"
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
