# Two commands do everything on a fresh machine: `make serve` and `make test`.

PYTHON      ?= python3
BACKENDS    ?= llamacpp
HOST        ?= 127.0.0.1
PORT        ?= 8080
WORKERS     ?= 1
VENV        ?= .venv
MODEL       ?= smollm2-135m
# Pins torch. On Linux its wheel of the default index is for CUDA and weighs gigabytes: for a machine without a GPU,
# name the CPU index of PyTorch's install page in PIP_EXTRA_INDEX_URL, which pip reads by itself.
CONSTRAINTS ?= tests/constraints.txt

# ONNX Runtime comes in two builds, of which a machine has one: extra_onnx=[cuda] for NVIDIA's GPUs.
extra_onnx  ?= [cpu]

libraries := plugins/decoding
plugins   := $(foreach backend,$(BACKENDS),plugins/$(backend)_backend)
installed := $(VENV)/.installed-$(subst $() ,-,$(sort $(BACKENDS)))
sources   := pyproject.toml $(wildcard $(addsuffix /pyproject.toml,$(libraries) $(plugins))) $(CONSTRAINTS)

.DEFAULT_GOAL := help
.PHONY: help install serve test lint clean

help: ## show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'
	@echo '  variables: BACKENDS="$(BACKENDS)" HOST=$(HOST) PORT=$(PORT) WORKERS=$(WORKERS) VENV=$(VENV) PYTHON=$(PYTHON) CONSTRAINTS=$(CONSTRAINTS)'

install: $(installed) ## make the virtual environment and install the gateway with BACKENDS

$(installed): $(sources)
	@for plugin in $(plugins); do test -d $$plugin || { echo "There is no $$plugin. BACKENDS may name: $$(ls plugins | sed -n 's/_backend$$//p' | xargs)"; exit 2; }; done
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet $(addprefix -c ,$(CONSTRAINTS)) -e . $(addprefix -e ./,$(libraries)) $(foreach backend,$(BACKENDS),-e "./plugins/$(backend)_backend$(extra_$(backend))")
	@touch $@

serve: install ## install, fetch the demo weights, and serve on HOST:PORT
	$(addprefix PIP_CONSTRAINT=,$(abspath $(CONSTRAINTS))) $(VENV)/bin/python -m core pull $(MODEL)
	exec $(VENV)/bin/sanic core.app --host $(HOST) --port $(PORT) --workers $(WORKERS)

$(VENV)/bin/tox:
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet 'tox>=4.20,<5'

test: $(VENV)/bin/tox ## run every tox environment: lint, type, core, each backend, packaging
# The core's tests mostly wait for processes; the others use the time.
	$(VENV)/bin/tox run-parallel --parallel 2 --parallel-live -e core,llamacpp,decoding,type,pkg,lint
# Each of these two computes in one thread (OMP_NUM_THREADS in tox.ini), for minutes: side by side they cost half of them.
	$(VENV)/bin/tox run-parallel --parallel 2 --parallel-live -e torch,onnx
	$(VENV)/bin/tox run -e together

lint: $(VENV)/bin/tox ## run the quick checks only
	$(VENV)/bin/tox run -e lint,type

clean: ## remove environments and caches of this checkout (weights stay)
	rm -rf $(VENV) .tox .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
