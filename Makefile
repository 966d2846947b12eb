# Everything runs from a virtual environment of its own; `make demo` and `make test` make it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint unit ray clean

demo: .venv/installed
	$(BIN)/hacscale run digits-vgg11

# Types are checked by one core while the others test.
test: .venv/installed
	$(MAKE) --jobs 2 lint unit
	$(MAKE) ray

unit: .venv/installed
	$(BIN)/pytest -m "not ray and not gpu and not long" --numprocesses 2 --durations 12

# Tests that start Ray share a session with others of their file.
ray: .venv/installed
	$(BIN)/pytest -m "ray and not gpu and not long" --numprocesses 2 --dist loadfile --durations 12 $$(grep -l mark.ray tests/test_*.py)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hacscale needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade uv
	# Compiled, as pip would do: every worker of Ray imports PyTorch, which takes thrice the time else.
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
