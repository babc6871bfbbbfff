# Everything runs in .venv, made on first use; needs python3 (3.10 or newer, with venv and pip).
# PYTHON names another interpreter:  make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint compare bench clean

help:
	@echo "make demo     train a network on handwritten digits, with and without batch norm"
	@echo "make test     linters, types, import rules and tests"
	@echo "make lint     the first three alone"
	@echo "make compare  speed against other libraries (installs them)"
	@echo "make bench    a quick run of the asv suite (installs the other libraries too)"
	@echo "make clean    remove .venv and caches"

demo: .venv/installed-demo
	$(BIN)/python examples/train_digits.py

test: lint
	$(BIN)/python -m pytest -m "not peer"

lint: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

compare: .venv/installed-bench
	$(BIN)/python -m benchmarks.compare batch_norm
	$(BIN)/python -m benchmarks.compare dense_batch_norm
	$(BIN)/python -m benchmarks.compare conv2d_batch_norm
	$(BIN)/python -m benchmarks.compare normalize

# "existing": the code as it is now, in this environment, rather than a build of each commit.
bench: .venv/installed-bench
	$(BIN)/asv machine --yes
	$(BIN)/asv run --quick --show-stderr --environment existing

# One stamp for each extra, so that nothing is installed twice until pyproject.toml changes.
.venv/installed-%: pyproject.toml .venv/created
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

.venv/created:
	$(PYTHON) -m venv --clear .venv
	@touch $@

clean:
	rm -rf .venv .asv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
