# Every target builds .venv itself; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: serve test lint types unit conformance bench docs clean

serve: $(READY)
	$(BIN)/trioserve --config config/development.toml

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest $(ARGS)

# The Autobahn test suite against a server of our own: 517 cases in 15 minutes, or ARGS="--quick".
conformance: $(READY)
	$(BIN)/python -m tests.conformance $(ARGS)

bench: $(READY)
	$(BIN)/python -m benchmarks $(ARGS)

# Everything that is generated from the code.
docs: $(READY)
	$(BIN)/python -m trioserve.config.reference

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[all]" --group dev
	touch $(READY)

clean:
	rm -rf $(VENV) .venv-autobahn build .mypy_cache .ruff_cache .pytest_cache .hypothesis
