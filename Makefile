# `make help` lists the targets. Everything happens in a virtual environment of this
# checkout, which is made again when pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SEEDS ?= 500
SECONDS ?= 600

.DEFAULT_GOAL := help
.PHONY: help run test check bench workday simulate chaos clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "Install the venv module first, on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

run: $(STAMP) ## start three members on this machine, with sample jobs; Ctrl-C stops them
	@$(BIN)/cronclave dev

check: $(STAMP) ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check ## everything CI runs: checks, then all tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

bench: $(STAMP) ## measure, and write bench/RESULTS.md
	$(BIN)/python -m bench

workday: $(STAMP) ## replay a business day, sixty times faster than life
	$(BIN)/python -m bench.workday

simulate: $(STAMP) ## run many seeded clusters in virtual time: make simulate SEEDS=5000
	$(BIN)/python -m tests.simulation.raft_run --seeds $(SEEDS) --members 3 5
	$(BIN)/python -m tests.simulation.raft_run --seeds $(SEEDS) --growing
	$(BIN)/python -m tests.simulation.cluster_run --seeds $(SEEDS) --mode all
	$(BIN)/python -m tests.simulation.cluster_run --seeds $(SEEDS) --mode all --kind behind
	$(BIN)/python -m tests.simulation.cluster_run --seeds $(SEEDS) --mode all --kind changing

chaos: $(STAMP) ## harm members of real clusters, of three and of five, then judge
	for nodes in 3 5; do \
	  $(BIN)/python -m chaos.kill_members --nodes $$nodes --seconds $(SECONDS) && \
	  $(BIN)/python -m chaos.linearizable --nodes $$nodes --seconds $(SECONDS) || exit 1; \
	done

clean: ## remove the environment and the data of `make run`
	rm -rf $(VENV) .dev
