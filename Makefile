# `make demo` and `make test` do all the set-up by themselves, in .venv.
PYTHON ?= $(shell command -v python3.12 || ls $(HOME)/.pyenv/versions/3.12*/bin/python 2>/dev/null | tail -n 1)
BIN := .venv/bin

.PHONY: demo test lint docs bench clean

demo: .venv/installed
	$(BIN)/tpainn-demo

test: lint
	$(BIN)/python -m pytest -n auto --dist loadscope --cov --cov-report=

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pydoclint --quiet schnetpack_tpainn hydra_plugins datasets benchmarks

docs: .venv/installed-docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

.venv/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "expected Python 3.12 or newer as python3.12; install it, or say make PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet --editable '.[test,docs]'
	touch $@

clean:
	rm -rf .venv build dist docs/_build
