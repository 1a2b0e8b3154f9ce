# `make` lists the targets. Works with GNU make 3.81 (macOS) and later.

PYTHON ?= python3
PORT   ?= 8501
ARGS   ?=
DATA   ?= data
EXPERIMENTS ?= mnist coloured comments xray language

VENV := .venv
PY   := $(VENV)/bin/python
PEERS := .venv-peers

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help dashboard test check format schema samples bench bench-load bench-peers bench-ui experiments screenshots clean runtime dev peers

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

dashboard: runtime ## open the sample runs in the dashboard      (PORT=8501)
	$(PY) -m aa_core dashboard sample_runs --port $(PORT)

test: dev ## all tests, on all cores                     (ARGS="-k replay -n0")
	@$(PY) -m tests.browser.find_chromium
	$(PY) -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(ARGS)

check: dev ## format, lint and types, nothing is changed
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

.PHONY: fuzz
FUZZ_SECONDS ?= 600
fuzz: dev ## damaged files and crashes, at random       (FUZZ_SECONDS=600)
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(PY) -m pytest -n0 --timeout=$$(($(FUZZ_SECONDS) + 300)) tests/faults/test_fuzz.py tests/faults/test_life.py $(ARGS)

format: dev ## put the code in the house's format
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

schema: dev ## the JSON Schema of a run, from the code that reads it
	$(PY) -m aa_core.runs.run_schema docs/run-format.schema.json

samples: dev ## record the sample runs again
	$(PY) -m sample_runs.record $(ARGS)

bench: dev ## time and accuracy against retraining
	$(PY) -m benchmarks $(ARGS)

bench-peers: peers ## other libraries on the same runs, from an environment of their own
	$(PEERS)/bin/python -m benchmarks.peers $(ARGS)

experiments: dev ## all experiments again; hours            (DATA=folder of the data sets, ARGS=--resume)
	for name in $(EXPERIMENTS); do \
	$(PY) -m aa_core experiment $$name --data $(DATA) -o results/$$name $(ARGS) && \
	$(PY) -m sample_runs.experiment.store $$name results/$$name || exit 1; done
	$(PY) -m sample_runs.experiment.page

bench-load: dev ## twenty people at once, while jobs run
	$(PY) -m benchmarks.load $(ARGS)

bench-ui: dev ## how long the dashboard keeps one waiting
	@$(PY) -m tests.browser.find_chromium
	$(PY) -m benchmarks.ui

screenshots: dev ## the pictures of README and guide
	@$(PY) -m tests.browser.find_chromium
	$(PY) -m tests.browser.screenshots $(ARGS)

clean: ## remove caches and builds (.venv stays; rm -r .venv if it is broken)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# A stamp is a copy of the requirement files that were installed. While they are the same byte for byte there is nothing
# to do, whatever their dates say, and no network is needed.
runtime_files := requirements.txt
dev_files     := requirements.txt requirements-dev.txt
peers_files   := requirements.txt benchmarks/peers/requirements.txt
# --no-compile: Python compiles what is imported; pip would compile all that there is.
install = echo "installing $(1) into $(VENV) (the first time takes minutes: torch is large)" && \
	$(PY) -m pip install --quiet --disable-pip-version-check --no-compile -r $(1)

runtime: $(PY)
	@cat $(runtime_files) | cmp -s - $(VENV)/.runtime || { $(call install,requirements.txt) && \
	cat $(runtime_files) > $(VENV)/.runtime; }

dev: $(PY)
	@cat $(dev_files) | cmp -s - $(VENV)/.dev || { $(call install,requirements-dev.txt) && \
	cat $(runtime_files) > $(VENV)/.runtime && cat $(dev_files) > $(VENV)/.dev; }

# torchvision comes with them, built for another torch; transformers, which bergson needs, does not import beside it.
peers:
	@cat $(peers_files) | cmp -s - $(PEERS)/.peers || { echo "installing other libraries into $(PEERS)" && \
	$(PYTHON) -m venv --clear $(PEERS) && $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	$(patsubst %,-r %,$(peers_files)) && $(PEERS)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio && \
	cat $(peers_files) > $(PEERS)/.peers; }

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "Python 3.11 or newer is needed; $(PYTHON) is: `$(PYTHON) --version 2>&1`. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@echo "creating $(VENV) with `$(PYTHON) --version`"
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }
