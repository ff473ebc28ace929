# `make demo` trains and examines the main job; `make test` runs the laws. Both build .venv first where it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test lint clean

demo: $(READY)
	$(BIN)/python scripts/train.py tinygsm_cpu --workdir runs/demo > /dev/null  # the summary is in the run folder too
	$(BIN)/python scripts/show_run.py --workdir runs/demo

test: $(READY)
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile  # tests of one file build on each other

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy lm

clean:
	rm -rf $(VENV)

$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Cambium needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[data,text,vision,hf,dev]'
	@touch $(READY)
