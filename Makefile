# Everything runs in .venv, made on first use; needs python3 (3.10 or newer, with venv and pip).
# PYTHON names another interpreter:  make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all test-cpus soak lint compare bench dashboard dashboard-view notebooks docs docs-view package clean

help:
	@echo "make demo            train a network on handwritten digits, with and without batch norm"
	@echo "make lint            linters, types and import rules"
	@echo "make test            the same and the quick tests"
	@echo "make test-all        the same and all tests but the next two"
	@echo "make test-cpus       kernels and functions with AVX2 and SSE2 code"
	@echo "make soak            the long tests: threads, forks, damaged caches, random calls"
	@echo "make compare         speed against other libraries (installs them)"
	@echo "make bench           a quick run of a part of the asv suites, on the code as it is"
	@echo "make dashboard       the suites on a few commits of main, as pages that need no network"
	@echo "make dashboard-view  show those pages at http://127.0.0.1:8000/"
	@echo "make docs            the site, in build/site, with the dashboard if it was made"
	@echo "make docs-view       show it at http://127.0.0.1:8000/"
	@echo "make package         sdist and wheel, in dist"
	@echo "make notebooks       run the notebooks and keep their outputs"
	@echo "make clean           remove .venv and caches"

demo: .venv/installed-demo
	$(BIN)/python examples/train_digits.py

# Groups of tests: tests/conftest.py.
test: TESTS := not slow and not peer and not soak
test-all: TESTS := not peer and not soak
test test-all: lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup -m "$(TESTS) and not alone"
	$(BIN)/python -m pytest -m "$(TESTS) and alone"

# Without features of its own the name alone would still give 512-bit code.
test-cpus: .venv/installed-test
	for processor in haswell x86-64; do \
	    NUMBA_CPU_NAME=$$processor NUMBA_CPU_FEATURES= $(BIN)/python -m pytest \
	        -m "not slow and not peer and not soak" tests/kernels tests/functional \
	        tests/jit/test_simd.py tests/jit/test_elementary.py || exit 1; \
	done

soak: .venv/installed-test .venv/installed-demo
	$(BIN)/python -m pytest -m soak -o faulthandler_timeout=0

lint: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

compare: .venv/installed-bench
	$(BIN)/python -m benchmarks.compare all

# "existing": the code as it is now, in this environment, rather than a build of each commit; on
# as many threads as asv.conf.json says. BENCH is a regular expression, with . for everything:
# make bench BENCH=conv2d_batch_norm.Ratio
BENCH ?= ^(dense_)?batch_norm.(Function|Ratio|Fused)
bench: .venv/installed-asv
	$(BIN)/asv machine --yes
	NUMBA_NUM_THREADS=2 $(BIN)/asv run --quick --show-stderr --environment existing --bench '$(BENCH)'

dashboard: .venv/installed-asv
	$(BIN)/python -m benchmarks.tools.dashboard

dashboard-view:
	python3 -m http.server --bind 127.0.0.1 --directory .asv/html 8000

package: .venv/installed-packaging
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

notebooks: .venv/installed-notebooks .venv/installed-torch
	$(BIN)/python notebooks/execute.py

# A broken link, a warning or a public name without documentation is an error.
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

docs-view:
	python3 -m http.server --bind 127.0.0.1 --directory build/site 8000

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
