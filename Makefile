# The whole house: `make demo` shows it, `make test` proves it, `make check` reads it, `make bench` measures it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo demo-repair test check bench bench-signal bench-ingest bench-zuna schema clean

demo: $(STAMP)
	@$(BIN)/python tools/demo.py

demo-repair: $(STAMP)
	@$(BIN)/python tools/demo_repair.py

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/streamnode bench e2e

bench-signal: $(STAMP)
	$(BIN)/python tools/bench_signal.py

bench-ingest: $(STAMP)
	$(BIN)/python tools/bench_ingest.py

bench-zuna: $(STAMP)
	$(BIN)/python tools/bench_zuna.py

schema: $(STAMP)
	$(BIN)/python -c "from streamnode.config import write_schema; write_schema('configs/schema.json')"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "streamnode needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
