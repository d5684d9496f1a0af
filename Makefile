# `make demo` and `make test` each work alone on a fresh clone with Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
PIP_INSTALL ?= pip install
BIN := $(VENV)/bin
TEST_PROCESSES ?= 2
DEMO_CLIPS ?= 1700
DEMO_TEST_FRACTION ?= 0.43
DEMO_SEED ?= 0
DEMO_ROOT ?= mini_avuie

.DEFAULT_GOAL := help
.PHONY: help demo test test-lowest lint docs clean

help:  ## List what can be made.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

# One virtual environment; a stamp file for each set of extras, so that a second call installs nothing.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found %d.%d; call make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m $(PIP_INSTALL) --quiet --editable .
	touch $@

$(VENV)/.installed-test: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m $(PIP_INSTALL) --quiet --editable '.[test]' 'setuptools>=70.1'
	# The second mask backend, not in the extra: sam2 comes as source, and an isolated build would first load a
	# second torch of 2 GB. Without isolation it builds beside the one that is there, in seconds.
	SAM2_BUILD_CUDA=0 $(BIN)/python -m $(PIP_INSTALL) --quiet --no-build-isolation 'sam2>=1.1'
	touch $@

$(VENV)/.installed-dev: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m $(PIP_INSTALL) --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## Make Mini AV-UIE, fine-tune the mini model on its 19 sets, test it, print the table.
	$(BIN)/python cli.py data mini --root $(DEMO_ROOT) --clips $(DEMO_CLIPS) --test-fraction $(DEMO_TEST_FRACTION) --seed $(DEMO_SEED)
	$(BIN)/python cli.py fit --config demo.yaml --data.root $(DEMO_ROOT)
	$(BIN)/python cli.py test --config demo.yaml --data.root $(DEMO_ROOT) --ckpt_path runs/demo

test: $(VENV)/.installed-test  ## Run the default test suite.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

test-lowest:  ## Run the default test suite with the lowest library versions that setup.cfg allows.
	$(PYTHON) .ci/lowest.py > lowest.txt
	$(MAKE) test VENV=$(VENV)-lowest PIP_INSTALL='$(PIP_INSTALL) --constraint lowest.txt'
	rm lowest.txt

lint: $(VENV)/.installed-dev  ## Lint, check formats and types, and the import contracts.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy crab_lightning cli.py
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev  ## Build the documentation in build/site; a warning is an error.
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/site

clean:  ## Remove the virtual environment and what the demo made.
	rm -rf $(VENV) $(VENV)-lowest $(DEMO_ROOT) runs/demo
