# Two commands for a newcomer: `make demo` and `make test`. Both make their own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

PIP := $(BIN)/pip install --quiet --disable-pip-version-check --progress-bar off
# Without a GPU, torch comes without gigabytes of libraries for one:
# make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
SAY := @printf '%s\n'
TOOLS := .tools

.PHONY: demo install test test-slow test-all lint lab tools lock sbom audit site clean

# Every file is known by its hash but torch's, which is another one for each platform and processor; what torch asks
# for is among the hashed ones. Nothing else is fetched while cmdana itself is built.
# The demonstration has what it needs and no more, torch for one not; `make install` brings all, and compiles the protocol
# analyzers; the test tools come with `make test`. The replay compiles what it uses, for a minute; the rest comes after it.
$(VENV)/.demo: pyproject.toml requirements-demo.lock
	$(SAY) "1/3 $(VENV): an environment of Python of its own; nothing is installed outside of it"
	@$(PYTHON) -m venv $(VENV)
	$(SAY) "2/3 the libraries of requirements-demo.lock, each by its hash (about 90 MB to fetch)"
	@$(PIP) --no-compile --require-hashes --no-deps -r requirements-demo.lock
	$(SAY) "3/3 cmdana itself"
	@CMDANA_COMPILE=0 $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed: $(VENV)/.demo constraints.txt requirements.lock
	$(SAY) "1/3 the other libraries, of requirements.lock, each by its hash (about 80 MB to fetch)"
	@$(PIP) --require-hashes --no-deps -r requirements.lock
	$(SAY) "2/3 torch, by its version (gigabytes with support for GPUs; 200 MB with TORCH_INDEX, see the README)"
	@$(PIP) -c constraints.txt $(if $(TORCH_INDEX),--no-deps --extra-index-url $(TORCH_INDEX)) torch
	@touch $@

# Analyzers that have changed since are compiled anew: what was compiled before them stands in their way.
$(VENV)/.compiled: $(VENV)/.installed feature_extractors/content/reassembly.py \
    $(wildcard feature_extractors/content/analyzers/*.py)
	$(SAY) "3/3 compiling: protocol analyzers, where there is a C compiler, for captures read in half the time; then what"
	$(SAY) "    numba compiles for this processor (some minutes together)"
	@$(PIP) --no-deps --no-build-isolation -e .
	@$(BIN)/cmdana doctor --compile
	@touch $@

$(VENV)/.testing: $(VENV)/.compiled requirements-test.lock
	$(SAY) "test tools of requirements-test.lock, each by its hash"
	@$(PIP) --require-hashes --no-deps -r requirements-test.lock
	@touch $@

install: $(VENV)/.compiled

demo: $(VENV)/.demo
	$(SAY) "replaying tests/traces/demo/demo.pcap.gz into demo-out/"
	@$(BIN)/cmdana replay --force --out demo-out --labels tests/traces/demo/labels.csv tests/traces/demo/demo.pcap.gz
	$(SAY) "" "what next:" "  $(BIN)/cmdana incidents demo-out    the incidents as a queue, with the command that explains each" \
	    "  $(BIN)/cmdana serve demo-out        the same in a browser" \
	    "  make install                       the rest: to train on your own traffic, for a GPU, for faster reading"
	@[ -e $(VENV)/.ready ] || { printf '%s\n' "" "compiling what other commands use, once, for a minute; that can be left"; \
	    $(BIN)/cmdana doctor --compile && touch $(VENV)/.ready; }

# What takes long is marked `slow`: `make test` leaves it out. `test-slow` runs it but for what is `long` as well, so that
# CI stays below twenty minutes; `make test-all` runs everything. Files run beside each other, four at most.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

test: $(VENV)/.testing
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.testing
	$(PYTEST) -m "slow and not long"

test-all: $(VENV)/.testing
	$(PYTEST)

lint: $(VENV)/.testing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Needs root and the Debian packages of benchmarks/lab/README.md: make lab SCENARIO=office SECONDS=600
SCENARIO ?= demo
SECONDS ?= 120
SEED ?= 1
lab: $(VENV)/.compiled
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lab]'
	$(BIN)/python -m benchmarks.lab record --scenario $(SCENARIO) --seconds $(SECONDS) --seed $(SEED) \
	    --out recordings/$(SCENARIO)-$(SEED)

# Tools of whoever looks after the dependencies, apart from what cmdana needs.
$(TOOLS)/.installed: requirements.tools
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check -r requirements.tools
	# axe-core, which tests whether the live page can be used by everybody; Chromium runs it, without Playwright.
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check --no-deps axe-playwright-python==0.1.8
	touch $@

tools: $(TOOLS)/.installed

# The versions of constraints.txt with the hashes of all their files: for every Python and platform that they are for.
lock: $(TOOLS)/.installed
	echo "torch ; sys_platform == 'never'" > $(TOOLS)/without
	$(LOCK) requirements-demo.in -o requirements-demo.lock
	$(LOCK) pyproject.toml requirements.in -o requirements.lock
	$(LOCK) pyproject.toml requirements.in --extra test -o requirements-test.lock

LOCK = $(TOOLS)/bin/uv pip compile --quiet -c constraints.txt --universal --generate-hashes --python-version 3.11 \
    --override $(TOOLS)/without --no-emit-package torch --no-annotate --custom-compile-command 'make lock'

# What is installed, as CycloneDX.
sbom: $(VENV)/.testing $(TOOLS)/.installed
	mkdir -p build
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	    --output-file build/sbom.cdx.json $(BIN)/python
	@echo "build/sbom.cdx.json: what is installed, as CycloneDX"

# Known faults of what is installed. 1: found some; 2: the service that knows them could not be reached.
audit: $(VENV)/.testing $(TOOLS)/.installed
	@sh .ci/audit $(TOOLS)/bin/pip-audit $(BIN)/python

# The documentation as a site, in build/site; a link to a page or a heading that is not there is a fault.
site: $(TOOLS)/.installed
	$(TOOLS)/bin/zensical build --strict

clean:
	rm -rf $(VENV) $(TOOLS) build demo-out
