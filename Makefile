# Everything here works on a machine with only make, git and Python 3.11 or later.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PLAYWRIGHT := $(VENV)/.playwright

# The first of these that is new enough. Another one: make setup PYTHON=/path/to/python
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup test test-browser test-alerts demo bench docs lint format

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
	@echo "Setting up $(VENV)"
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV) && \
		uv pip install --quiet --python $(BIN)/python --editable .; \
	else \
		"$(PYTHON)" -m venv $(VENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .; \
	fi
	@touch $@

.PHONY: missing
missing:

test: setup ## Run every test, those of generated services included
	@$(BIN)/python -m pytest

test-browser: setup $(PLAYWRIGHT) ## Work at the template's console in a Chromium of this machine
	@cd '<<cookiecutter.service_slug>>' && ../$(BIN)/python -m pytest -m browser tests/browser

# It brings no browser: that is the machine's own, and CHROMIUM=/path/to/it names another one.
$(PLAYWRIGHT): pyproject.toml | setup
	@echo "Adding Playwright to $(VENV)"
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python --editable '.[browser]'; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[browser]'; \
	fi
	@touch $@

test-alerts: setup ## Test the alerts with Prometheus' own promtool
	@command -v promtool >/dev/null || { \
		echo "promtool is needed, of Prometheus (Debian: apt-get install prometheus)" >&2; exit 1; }
	@$(BIN)/python -m pytest tests/test_monitoring.py

demo: setup ## Generate two services and watch their events cross (KEEP=1 leaves them running)
	@$(BIN)/python -m demo $(if $(KEEP),--keep)

bench: setup ## Run the benchmarks
	@$(BIN)/python -m benchmarks

docs: setup ## Write docs/configuration.md from the code
	@$(BIN)/python docs/make_configuration.py

lint: setup ## Check style and types, of the template too
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy .
	@cd '<<cookiecutter.service_slug>>' && ../$(BIN)/mypy

format: setup ## Put the code in its standard form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
