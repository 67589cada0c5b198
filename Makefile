# Two commands for a newcomer: `make demo` and `make test`. Both make their own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint lab clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV): a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/cmdana replay --force --out demo-out --labels tests/traces/demo/labels.csv tests/traces/demo/demo.pcap.gz

test: $(VENV)/.installed
	$(BIN)/pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Needs root and the Debian packages of benchmarks/lab/README.md: make lab SCENARIO=office SECONDS=600
SCENARIO ?= demo
SECONDS ?= 120
SEED ?= 1
lab: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lab]'
	$(BIN)/python -m benchmarks.lab record --scenario $(SCENARIO) --seconds $(SECONDS) --seed $(SEED) \
	    --out recordings/$(SCENARIO)-$(SEED)

clean:
	rm -rf $(VENV) demo-out
