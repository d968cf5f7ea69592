PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MODELOPS_HOME ?= $(CURDIR)/.modelops

.PHONY: demo up test test-long test-fast check format bench lock clean

demo: $(VENV)/.runtime  ## the main job end to end on the embedded model
	@$(BIN)/modelops demo $(ARGS)

up: $(VENV)/.runtime  ## controller, gateway and Dagster in one foreground command
	@$(BIN)/modelops up $(ARGS)

# two at once: more would have as many models in memory
TEST_JOBS ?= 2

test: check  ## every test, real engines included
	@$(BIN)/pytest -n $(TEST_JOBS) --dist loadfile

test-long: check  ## what takes many minutes of real engines, and is left out of `make test`
	@$(BIN)/pytest -m long

test-fast: check
	@$(BIN)/pytest -m "not long and not slow and not engine and not browser"

check: $(VENV)/.dev
	@echo "check: format, lint, types (about a minute the first time), imports"
	@$(BIN)/ruff format --check -q .
	@$(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.dev
	@$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format -q .

bench: $(VENV)/.dev  ## every figure, one JSON object a line; ONLY=name for one
	@$(BIN)/python -m bench $(ONLY)

lock: $(VENV)/.dev  ## recompile the pinned requirements (needs uv on PATH)
	uv pip compile -q --universal --python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links \
	  --no-annotate pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links \
	  --no-annotate -c requirements.lock --group dev -o requirements-dev.lock

clean:
	rm -rf $(VENV) .modelops

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) or sys.platform != "linux")' 2>/dev/null || { \
	  echo "setup: needs Python 3.11 or newer on Linux, and $(PYTHON) is not ($$($(PYTHON) --version 2>&1));" \
	    "name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@echo "setup: creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# Locks are complete, so --no-deps installs exactly what they name.
$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/bin/pip
	@echo "setup: installing $$(grep -c == requirements.lock) packages (about a minute the first time)"
	@$(BIN)/pip install -q --no-deps --disable-pip-version-check -r requirements.lock \
	  && $(BIN)/pip install -q --no-deps --disable-pip-version-check -e . || { \
	  echo "setup: pip could not install the packages, for the reason it gives above; check the network, or name a" \
	    "package index with PIP_INDEX_URL, then run make again" >&2; exit 2; }
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "setup: installing what tests need"
	@$(BIN)/pip install -q --no-deps --disable-pip-version-check -r requirements-dev.lock
	@touch $@
