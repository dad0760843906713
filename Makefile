# make demo        train on real images, evaluate, predict; needs only Python 3.11+, pip and PyPI
# make test        style, types and the test suite
# make test-slow   the tests that train for minutes
# make frozen AGAINST=REVISION   whether losses, gradients, weights and detections are still those of another revision
# make against AGAINST=REVISION  how long a step, a prediction and a validation take beside another revision;
#                                MOST="1.02 1.02 1.02" are the ratios allowed
# make docs        the documentation as a site, in site/
# make clean       remove .venv, .cache, site and runs/demo
#
# PYTHON=python3.12 make ...   takes another interpreter to make .venv with

PYTHON ?= python3
BIN := .venv/bin
CODE := src tests docs $(wildcard benchmarks)
STARTED := $(shell date +%s)
MOST ?= 1.02 1.02 1.02

.PHONY: demo test test-slow frozen against lint docs clean

demo: .venv/installed
	$(BIN)/python -m mimicdet.lab.demo --started $(STARTED)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

frozen: .venv/installed
	$(BIN)/python benchmarks/frozen.py --against $(or $(AGAINST),$(error name a revision: make frozen AGAINST=main))

against: .venv/installed
	$(BIN)/python benchmarks/against.py --against $(or $(AGAINST),$(error name a revision: make against AGAINST=main)) \
		--most $(MOST)

lint: .venv/installed-dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

docs: .venv/installed-docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs site
	@echo "the documentation is site/index.html"

# The stamps make a second call quick; a change of pyproject.toml installs again.
.venv/installed: pyproject.toml | .venv/bin/python
	@echo "installing mimicdet and what it needs into .venv; torch takes some minutes and 5 GB"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	@echo "installing mimicdet, what it needs and its tests' tools into .venv; torch takes some minutes and 5 GB"
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ .venv/installed .venv/installed-docs

.venv/installed-docs: pyproject.toml | .venv/bin/python
	@echo "installing mimicdet, what it needs and Sphinx into .venv; torch takes some minutes and 5 GB"
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@ .venv/installed

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mimicdet needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 2; }

clean:
	rm -rf .venv .cache site runs/demo
