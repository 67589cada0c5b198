# Two commands for a newcomer: `make demo` and `make test`. Both make their own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

PIP := $(BIN)/pip install --quiet --disable-pip-version-check
TOOLS := .tools

.PHONY: demo test test-slow test-all lint lab lock sbom audit clean

# Every file is known by its hash but torch's, which is another one for each platform and processor; what torch asks
# for is among the hashed ones. Nothing else is fetched while cmdana itself is built.
$(VENV)/.installed: pyproject.toml constraints.txt requirements.lock
	@echo "installing into $(VENV): a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes --no-deps -r requirements.lock
	$(PIP) -c constraints.txt torch
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

demo: $(VENV)/.installed
	$(BIN)/cmdana replay --force --out demo-out --labels tests/traces/demo/labels.csv tests/traces/demo/demo.pcap.gz

# What takes long is marked `slow`: `make test` leaves it out, `make test-all` runs everything.
test: $(VENV)/.installed
	$(BIN)/pytest -m "not slow"

test-slow: $(VENV)/.installed
	$(BIN)/pytest -m slow

test-all: $(VENV)/.installed
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

# Tools of whoever looks after the dependencies, apart from what cmdana needs.
$(TOOLS)/.installed: requirements.tools
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check -r requirements.tools
	touch $@

# The versions of constraints.txt with the hashes of all their files: for every Python and platform that they are for.
lock: $(TOOLS)/.installed
	echo "torch ; sys_platform == 'never'" > $(TOOLS)/without
	$(TOOLS)/bin/uv pip compile --quiet pyproject.toml requirements.in --extra test -c constraints.txt --universal \
	    --generate-hashes --python-version 3.11 --override $(TOOLS)/without --no-emit-package torch --no-annotate \
	    --custom-compile-command 'make lock' -o requirements.lock

# What is installed, as CycloneDX.
sbom: $(VENV)/.installed $(TOOLS)/.installed
	mkdir -p build
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	    --output-file build/sbom.cdx.json $(BIN)/python
	@echo "build/sbom.cdx.json: what is installed, as CycloneDX"

# Known faults of what is installed. 1: found some; 2: the service that knows them could not be reached.
audit: $(VENV)/.installed $(TOOLS)/.installed
	@sh .ci/audit $(TOOLS)/bin/pip-audit $(BIN)/python

clean:
	rm -rf $(VENV) $(TOOLS) build demo-out
