# Two commands do everything: `make demo` shows what it is, `make test` proves that it works.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv web demo up picture test soak check format bench lock clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(READY) ## Make .venv with everything, and the command in .venv/bin/squeezeflow

MEMBERS := $(patsubst %/pyproject.toml,%,$(wildcard libs/*/pyproject.toml services/*/pyproject.toml))

$(READY): requirements.lock pyproject.toml $(MEMBERS:=/pyproject.toml)
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 or newer (Debian: apt install python3 python3-venv)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python was $$($(PYTHON) -V), the least is 3.11: name another with make PYTHON=python3.12 venv"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing (Debian: apt install python3-venv)"; exit 1; }
	@grep -qm1 avx2 /proc/cpuinfo 2>/dev/null || echo "note: no AVX2 seen; the embedded ClickHouse needs it (an external server does not)"
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps $(MEMBERS:%=-e %)
	@touch $(READY)
	@echo "ready: $(BIN)/squeezeflow --help"

# The front end has its own tools and needs nothing of Python; without it everything works but the page.
WEB := libs/squeezeview/web
PAGE := libs/squeezeview/src/squeezeview/assets/report.js

web: $(PAGE) ## Check and build the front end of the report page and the dashboard (needs node and npm)

$(PAGE): $(shell find $(WEB)/src -type f) $(wildcard $(WEB)/*.json $(WEB)/*.mjs $(WEB)/*.js)
	@for tool in node npm; do command -v $$tool >/dev/null || { echo "$$tool is missing: install Node.js 18.18 or newer with npm (Debian: apt install nodejs npm)"; exit 1; }; done
	cd $(WEB) && npm $$(test -f package-lock.json && echo ci || echo install) --silent && npm run --silent types && npm run --silent lint && npm run --silent build
	@touch $(PAGE)
	@echo "built: $(dir $(PAGE))"

demo: $(READY) ## The main job on real recorded data, then a simulated market: flow, backtest, one trade explained, the report page
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory web; else echo "npm is missing, so the page at the end is left out (Debian: apt install nodejs npm)"; fi
	@bash scripts/demo.sh

SOURCE ?= sim:7
LIVE_HOME ?= build/live-$(subst /,-,$(subst :,-,$(SOURCE)))

up: $(READY) ## Run everything until Ctrl-C: both servers, six services (SOURCE=sim:7, live or replay:DIR)
	@$(BIN)/squeezeflow --home $(LIVE_HOME) up --source $(SOURCE)

picture: $(READY) $(PAGE) ## Take the README's picture of the demo's report page (needs Chromium)
	@test -f build/demo/report.html || { echo "there is no page yet: make demo first"; exit 1; }
	$(BIN)/python scripts/picture.py build/demo/report.html docs/pictures/report.png

check: $(READY) ## Lint, format, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(READY) $(PAGE) ## Every test but the slow ones (JOBS=2 processes)
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "not slow and not soak"

soak: $(READY) ## A thousand schedules of the simulated live loop, and processes killed for longer (an hour or two)
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m soak

bench: $(READY) $(PAGE) ## Measure, print a table, write build/bench.json
	$(BIN)/python -m tests.bench

lock: ## Resolve the dependencies anew into requirements.lock (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate --upgrade \
	    --group dev --extra embedded --extra service --extra up $(foreach member,$(MEMBERS),--no-emit-package $(subst squeeze-squeeze,squeeze,squeeze-$(notdir $(member)))) \
	    $(MEMBERS:=/pyproject.toml) -o requirements.lock

clean: ## Remove what was built, the virtual environment included
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis $(WEB)/node_modules libs/squeezeview/src/squeezeview/assets
