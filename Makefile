# Everything here works on a machine with only make, git and Python 3.11 or later.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest
PACKAGE := --ignore tests/template
HAS := $(VENV)/.has-
SPELLED := $(wildcard *.md) .github docs '<<cookiecutter.service_slug>>'
PIP := $(BIN)/python -m pip install --disable-pip-version-check
BENCH := .venv-bench

# The first of these that is new enough. Another one: make setup PYTHON=/path/to/python
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup test test-offline test-browser test-alerts test-deployment search hostile coverage demo chaos \
	crash-matrix bench bench-growth bench-page docs sizes wheel release lint format

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; \
		do printf '%-16s %s\n' "$$name" "$$text"; done

setup: $(READY) ## Make the environment in .venv
	@:

# Made anew only when pyproject.toml changes, or when the Python under .venv has gone.
$(READY): pyproject.toml $(if $(wildcard $(BIN)/python),,missing)
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or later is needed, and '$(or $(PYTHON),python3)' is not it:" \
			"install it, or name one: make setup PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Setting up $(VENV): the packages of the template and of its services; the first time takes minutes"
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --allow-existing --python "$(PYTHON)" $(VENV) && \
		uv pip install --python $(BIN)/python --editable .; \
	else \
		"$(PYTHON)" -m venv $(VENV) && \
		$(PIP) --editable .; \
	fi
	@touch $@

.PHONY: missing
missing:

# A dependency group, beside what all need. `browser` brings no browser: that is the machine's own, and
# CHROMIUM=/path/to/it names another one.
$(HAS)%: pyproject.toml | setup
	@echo "Adding the group '$*' to $(VENV)"
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python --group $*; \
	else \
		$(PIP) --quiet 'pip>=25.1' && $(PIP) --quiet --group $*; \
	fi
	@touch $@

# First what needs no server, then what mostly waits for one, then the template itself: whole files
# there, since a file's tests share a service that takes a minute to make.
test: setup ## Run every test: of the package, and of the template with its services
	@$(PYTEST) -m "not real" -n 2 --dist worksteal -p no:schemathesis $(PACKAGE)
	@$(PYTEST) -m "real and not browser" -n 4 --dist worksteal --durations=10 --durations-min=5 $(PACKAGE)
	@$(PYTEST) -m "not deployment" -p no:randomly -n 3 --dist loadfile --no-loadscope-reorder --timeout 900 \
		--durations=10 --durations-min=5 tests/template

test-offline: setup ## Run the package's tests that need no server, in a minute
	@$(PYTEST) -m "not real" -n 2 --dist worksteal -p no:schemathesis $(PACKAGE)

test-browser: $(HAS)browser ## Work at the template's console in a Chromium of this machine
	@$(PYTEST) -m browser tests/browser

test-deployment: $(HAS)deployment ## Check images, manifests and pipelines with linters and schemas
	@$(PYTEST) -m deployment -p no:schemathesis tests/template

test-alerts: setup ## Test alerts and dashboard with Prometheus' promtool, and with a Prometheus beside two services
	@command -v promtool >/dev/null && command -v prometheus >/dev/null || { \
		echo "prometheus and promtool are needed (Debian: apt-get install prometheus)" >&2; exit 1; }
	@$(PYTEST) -p no:randomly tests/template/test_monitoring.py tests/template/test_prometheus.py

search: setup ## Compare mock and NATS over new random histories, and fuzz the API, for a long time
	@HYPOTHESIS_PROFILE=search $(PYTEST) --timeout 0 tests/contract/test_same_states.py tests/fuzz

hostile: setup ## Send 100,000 hostile messages through a worker (HOSTILE=5000 for fewer, SEED=1 for others)
	@HOSTILE=$(or $(HOSTILE),100000) SEED=$(or $(SEED),20261126) $(PYTEST) -q -s --timeout 0 \
		-p no:logging --show-capture no -k postgresql tests/inbox/test_hostile_run.py

coverage: setup ## Say how much of jetstream_bridge the tests without a server cover
	@$(BIN)/python -m coverage run -m pytest -q -m "not real" $(PACKAGE)
	@$(BIN)/python -m coverage report --skip-covered --precision 1
	@$(BIN)/python -m coverage json -q -o coverage.json
	@$(BIN)/python -m tests.coverage_limits coverage.json

demo: setup ## Generate two services and watch their events cross (KEEP=1 leaves them running)
	@$(BIN)/python -m demo $(if $(KEEP),--keep)

chaos: setup ## Let everything go wrong at random (SEED=1 for the same plan, MINUTES=5)
	@$(BIN)/python -m chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))

crash-matrix: setup ## Kill a process at every named point and write docs/guarantees.md's table
	@$(BIN)/python -m chaos.matrix --write

# The peers and what draws charts have an environment of their own.
$(BENCH)/.ready: benchmarks/requirements.txt | setup
	@echo "Setting up $(BENCH)"
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --allow-existing --python $(BIN)/python $(BENCH) && \
		uv pip install --python $(BENCH)/bin/python --requirement $<; \
	else \
		$(BIN)/python -m venv $(BENCH) && \
		$(BENCH)/bin/python -m pip install --disable-pip-version-check --requirement $<; \
	fi
	@touch $@

bench: setup $(BENCH)/.ready ## Measure beside bare limits and peers (QUICK=1 for a first look, ONLY=relay, NOTE="...")
	@$(BIN)/python -m benchmarks --peers $(BENCH)/bin/python --note "$(NOTE)" \
		$(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(SCALE),--scale $(SCALE))
	@$(if $(QUICK)$(ONLY),,$(MAKE) --no-print-directory bench-page)

bench-growth: setup ## Measure beside millions of rows, with long backlogs, and for the events of an hour
	@$(BIN)/python -m benchmarks --only growth --rounds $(or $(ROUNDS),3) --minutes 60 --note "$(NOTE)" \
		$(if $(QUICK),--quick)
	@$(if $(QUICK),,$(MAKE) --no-print-directory bench-page)

bench-page: setup $(BENCH)/.ready ## Write docs/performance.md's table and charts from benchmarks/results/latest.json
	@$(BIN)/python -m benchmarks.page
	@$(BENCH)/bin/python -m benchmarks.charts

docs: $(HAS)docs ## Write what is made from code, check spelling and links, build the site into site/
	@$(BIN)/python docs/make_configuration.py
	@$(BIN)/python docs/diagrams.py
	@$(BIN)/codespell $(SPELLED)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "site/index.html; its search wants a web server: $(BIN)/python -m http.server -d site"

sizes: setup ## Say how large a service and the package are
	@$(BIN)/python docs/sizes.py

# Without isolation: hatchling is in .venv, so that a build asks no package index.
wheel: setup ## Build the wheel of jetstream_bridge into dist/
	@cd package && ../$(BIN)/python -m hatchling build --target wheel --directory ../dist

release: setup ## Commit and tag a release: VERSION=0.3.0 (PUSH=1 pushes it); nothing else leaves this machine
	@$(BIN)/python release.py "$(VERSION)" $(if $(PUSH),--push)

lint: setup ## Check style and types, of the template too
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy .
	@cd '<<cookiecutter.service_slug>>' && ../$(BIN)/mypy app jetstream_bridge migrations tests
	@cd '<<cookiecutter.service_slug>>' && ../$(BIN)/lint-imports --no-cache ../pyproject.toml

format: setup ## Put the code in its standard form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
