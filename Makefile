# make demo        train on real images, evaluate, predict; needs only Python 3.11+, pip and PyPI
# make test        style, types and the test suite
# make test-slow   the tests that train for minutes
# make test-faults kills, full disks, 10,000 faulty files and more, of which docs/reliability.md tells; up to an hour.
#                  FAULTS="--share 0.1 --only mutants kills" makes a part of them, FAULTS="--write docs/reliability.md"
#                  puts the table there
# make test-minimal  the tests with the oldest versions that pyproject.toml allows, in .cache/minimal
# make audit       known weaknesses of what is installed, by pip-audit; needs the network
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
MINIMAL := .cache/minimal
MINIMAL_TESTS := tests/commands tests/data tests/engine/test_train.py tests/export tests/inference tests/predict \
	tests/weights tests/test_settings_file.py

.PHONY: demo test test-slow test-faults test-minimal audit frozen against lint docs clean

demo: .venv/installed
	$(BIN)/python -m mimicdet.lab.demo --started $(STARTED)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

test-faults: .venv/installed-dev
	$(BIN)/python -m tests.faults $(FAULTS)

test-minimal: $(MINIMAL)/installed
	OMP_NUM_THREADS=1 $(MINIMAL)/bin/python -m pytest -m "not slow" $(MINIMAL_TESTS)

audit: .venv/installed .cache/audit/installed
	.cache/audit/bin/pip-audit $$($(BIN)/python -c 'import sysconfig; print("--path", sysconfig.get_path("purelib"))')

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

$(MINIMAL)/installed: pyproject.toml tests/minimal.py .venv/installed-dev
	rm -rf $(MINIMAL)
	$(PYTHON) -m venv $(MINIMAL)
	$(BIN)/python -m tests.minimal > $(MINIMAL)/oldest.txt
	@echo "installing the oldest versions of what mimicdet needs into $(MINIMAL); torch takes some minutes and 5 GB"
	$(MINIMAL)/bin/python -m pip install --quiet --constraint $(MINIMAL)/oldest.txt --editable '.[dev]'
	touch $@

.cache/audit/installed:
	$(PYTHON) -m venv .cache/audit
	.cache/audit/bin/python -m pip install --quiet pip-audit || \
		{ rm -rf .cache/audit; echo "pip-audit could not be fetched: make audit needs the network" >&2; exit 2; }
	touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mimicdet needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 2; }

clean:
	rm -rf .venv .cache site runs/demo
