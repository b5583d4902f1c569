# make run     digits with F-PNDM in 50 steps; or another run: make run ARGS="solver=ddim steps=20"
# make paper   a table of the paper: plan, runs, comparison, as in make paper DATASET=cifar10
# make test    the fast tests;  make test-slow: the long ones;  make lint: ruff and mypy
#
# Each first creates .venv, once, from the exact versions in requirements.lock. Options:
#   the Python version:          make test PYTHON=python3.12
#   pip options:                 make test PIP_ARGS=-vv
#   the small CPU build of torch (plain torch on x86-64 Linux is a CUDA build of several GB), from
#   the index named on pytorch.org; run `make clean` first if .venv has the other build:
#                                make run TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON = python3 python3.13 python3.12 python3.11
PIP_ARGS =
DATASET = digits
TORCH_INDEX =
ARGS =

python = .venv/bin/python
pip = $(python) -m pip --disable-pip-version-check -qq
index = $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
workers = --numprocesses logical --maxprocesses 4 --dist worksteal
fits = import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

.PHONY: run paper test test-slow lint lock clean

run: .venv/complete
	@$(python) run.py $(ARGS)

paper: .venv/complete
	@$(python) -m experiments.main_table.paper dataset=$(DATASET) $(ARGS)

test: .venv/complete
	@$(python) -m pytest $(workers) $(ARGS)

test-slow: .venv/complete
	@$(python) -m pytest $(workers) -m slow $(ARGS)

lint: .venv/complete
	@$(python) -m ruff check -q .
	@$(python) -m ruff format -q --check .
	@$(python) -m mypy

# Written last, so that an interrupted installation is repeated.
# The lock is used as a constraint, so that a CPU build of torch installs no CUDA libraries.
.venv/complete: requirements.lock pyproject.toml
	@test -e $@ || { for python in $(PYTHON); do \
	    "$$python" -c '$(fits)' 2>/dev/null && exec "$$python" -m venv --clear .venv; done; \
	  echo 'pndm needs Python 3.11, 3.12 or 3.13 with its venv module, and none of these is one:' \
	    '$(PYTHON). Name it: make PYTHON=/path/to/python3' >&2; exit 1; }
	@rm -f $@
	@echo 'Installing into .venv; the first time takes some minutes (PIP_ARGS=-vv shows it) ...'
	@$(pip) install $(index) $(PIP_ARGS) --constraint requirements.lock --editable '.[test]'
	@touch $@

# Keeps pinned versions unless asked to upgrade: make lock ARGS="--upgrade-package wandb".
# For maintainers: needs uv, since pip cannot lock for several Python versions and systems.
lock:
	@uv pip compile --quiet --universal --python-version 3.11 --extra test --no-annotate \
	  --no-header --no-emit-index-url --output-file requirements.lock $(ARGS) pyproject.toml

clean:
	@rm -rf .venv *.egg-info build .pytest_cache .mypy_cache .ruff_cache .hypothesis
