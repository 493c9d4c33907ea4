# Each command does all the set-up that it needs. `make help` lists them.

.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin

N ?= 20000
KILLS ?= 100
QUICK ?=
NAMES ?=
OTHERS ?=
MARKDOWN ?=
ROWS_MAX ?=
GROWTH ?=
ORCHESTRATORS ?= dagster prefect airflow openlineage

# The text behind ## is what `make help` prints.
.PHONY: help setup checks orchestrators demo test test-fast simulate strike mutate docs bench lint format lock audit sbom wheel

help: ## list the commands
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1 \2/p' $(MAKEFILE_LIST) | while read -r name text; do printf '%-10s %s\n' "$$name" "$$text"; done

setup: .venv/ready ## create .venv from requirements.lock, by hash

# The locked dependencies by hash, with uv where it is there and pip where not; then the project itself.
.venv/ready: requirements.lock pyproject.toml
	@echo "Installing the locked dependencies into .venv (once; a minute or two)"
	@if command -v uv >/dev/null 2>&1; then \
		uv venv -q --clear --python $(PYTHON) .venv && \
		uv pip install -q --python $(BIN)/python --require-hashes -r requirements.lock && \
		uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .; \
	else \
		$(PYTHON) -m venv --clear .venv && \
		$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock && \
		$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	fi
	@touch $@

# What the tests of pages and of the examples need on top: Playwright (Chromium is the system's own) and schemas.
checks: .venv/checks ## install what the tests of pages and examples need as well

.venv/checks: .venv/ready requirements-checks.lock
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install -q --python $(BIN)/python --require-hashes -r requirements-checks.lock; \
	else \
		$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-checks.lock; \
	fi
	@touch $@

# Some hundred packages each, which do not fit each other: each in an environment of its own.
orchestrators: ## install Dagster, Prefect, Airflow and OpenLineage for the tests of the examples
	@for each in $(ORCHESTRATORS); do \
		echo "Installing $$each into .venv-orchestrators/$$each"; \
		$(PYTHON) -m venv --clear .venv-orchestrators/$$each && \
		.venv-orchestrators/$$each/bin/python -m pip install -q --require-hashes -r examples/locks/$$each.lock || exit 1; \
	done

demo: setup ## serve a local Canvas and load the sample data into it
	@echo "Loading 7,001 synthetic rows into a local Canvas"
	@$(BIN)/canvas-ingest demo; code=$$?; test $$code -eq 0 -o $$code -eq 3   # 3: the sample has rows that are wrong on purpose

test: setup ## run all tests
	$(BIN)/pytest -n 4   # more than there are cores: many wait for settling delays

test-fast: setup ## run the tests without whole runs, servers, browsers and waiting
	$(BIN)/pytest -n 2 -m "not (runs or postgresql or browser or cluster or slow)"

# The proof of docs/guarantees.md at any length: make simulate N=200000
simulate: setup ## run N simulated schedules with crashes: make simulate N=200000
	$(BIN)/python -m tests.proof simulate -n $(N)

# The same over a cluster with PostgreSQL, workers, command, database and lines struck: make strike KILLS=100
strike: setup ## the same over a cluster, with KILLS processes killed: make strike KILLS=100
	$(BIN)/python -m tests.proof cluster --kills $(KILLS)

# Plants each fault that the proof must see, and shows the test that sees it.
mutate: setup ## plant each fault that the proof must find, and show the test that finds it
	$(BIN)/python -m tests.proof.mutations

# docs/configuration.md from the options, and the pictures of docs/architecture.md: a test fails if one is stale.
docs: setup ## write the generated pages: configuration.md, and the pictures of architecture.md
	$(BIN)/python -m docs.reference
	$(BIN)/python -m docs.drawings

# How fast it is, and how small, as ratios: make bench QUICK=1 NAMES="sending start" MARKDOWN=1
# OTHERS: the Python of an environment with fhir.resources and fhirpy. GROWTH=1: up to ten million rows, and docs/growth.svg.
bench: setup ## measure speed and memory against their goals; QUICK=1 takes a minute
	@$(BIN)/python -m bench $(if $(QUICK),--quick) $(if $(OTHERS),--others $(OTHERS)) $(if $(MARKDOWN),--markdown) \
		$(if $(ROWS_MAX),--rows-max $(ROWS_MAX)) $(NAMES) $(if $(GROWTH),growth)

lint: setup ## ruff, mypy and import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Needs uv. The lock names no index, so that it can be installed from any.
lock: ## renew requirements.lock, requirements-checks.lock and examples/locks (needs uv)
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.11 \
		--all-extras --group dev pyproject.toml -o requirements.lock --custom-compile-command "make lock"
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.11 \
		--group checks --constraint requirements.lock -o requirements-checks.lock --custom-compile-command "make lock"
	for each in $(ORCHESTRATORS); do uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
		--python-version 3.11 --group $$each -o examples/locks/$$each.lock --custom-compile-command "make lock" || exit 1; done

# The locked versions against the known advisories. .ci/audit.py says what its exit codes mean; 3 is "not audited".
audit: checks ## compare every locked version with the known advisories
	@$(BIN)/python .ci/audit.py

# What is locked, as a bill of materials: CycloneDX, checked against its schema, the same bytes for the same lock.
sbom: checks ## write dist/sbom.json, a bill of materials (CycloneDX)
	@mkdir -p dist
	@$(BIN)/cyclonedx-py requirements requirements.lock --output-reproducible --of JSON -o dist/sbom.json
	@echo dist/sbom.json

# From the last commit and nothing else, so that every build, on any machine and at any time, has the same bytes.
wheel: setup ## build a reproducible wheel of the last commit
	@rm -rf dist/source && mkdir -p dist/source && git archive HEAD | tar -x -C dist/source
	@cd dist/source && SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(CURDIR)/$(BIN)/python -m hatchling build -t wheel -d ..
	@rm -rf dist/source
	@cd dist && sha256sum canvas_ingest-*.whl
