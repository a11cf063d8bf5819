# One door to the project. Needs make, git and Python 3.11 or newer; everything else goes into .venv.
#
#   make serve       run the server; flags in ARGS:  make serve ARGS="--port 8080 --store memory"
#   make test        format, lint, types, tests with coverage, and the public conformance suite where Node.js is
#   make test-full   the same with the long tests
#   make check       format, lint and types alone
#   make bench       measure; flags in ARGS
#   make clean       remove what was installed and built here

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# Vite, which runs the public conformance suite, needs this Node.js.
NODE_IS_RECENT = command -v npm >/dev/null && node -e \
	'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' 2>/dev/null

# By environment, since that pins the build's own requirements too; by both names, since pip has changed which counts.
export PIP_CONSTRAINT = constraints.txt
export PIP_BUILD_CONSTRAINT = constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: serve test test-full check bench conformance node-is-recent clean

serve: .venv/.server
	@.venv/bin/unbroken serve $(ARGS)

test: check conformance
	.venv/bin/coverage run -m pytest
	@$(COVERAGE_REPORT)

test-full: check conformance
	.venv/bin/coverage run -m pytest -m "" --hypothesis-profile=full
	@$(COVERAGE_REPORT)

# The rules of the protocol are covered whole: every line and every branch.
COVERAGE_REPORT = .venv/bin/coverage report && \
	.venv/bin/coverage report --include="src/unbroken/protocol/*" --fail-under=100

check: .venv/.all
	.venv/bin/ruff format --check --quiet
	.venv/bin/ruff check --quiet
	.venv/bin/mypy
	.venv/bin/python tools/unasync.py --check

bench: .venv/.all
	@.venv/bin/python -m benchmarks $(ARGS)

node-is-recent:
	@$(NODE_IS_RECENT)

conformance:
	@if $(NODE_IS_RECENT); then $(MAKE) --no-print-directory conformance/node_modules/.installed peers/node_modules/.installed; \
	elif [ "$$CI" = true ]; then echo "The public conformance suite and the reference server need Node.js 20.19 or newer, with npm." >&2; exit 1; \
	else echo "*** The public conformance suite and the reference server are SKIPPED: they need Node.js 20.19 or newer, with npm. ***"; fi

clean:
	rm -rf .venv .ci/node .ci/go .ci/go.log conformance/node_modules peers/node_modules peers/python .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist examples/chat/data
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

.venv/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Unbroken needs Python 3.11 or newer, and no python3 here is. Name one: make PYTHON=/path/to/python3" >&2; exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Unbroken needs Python 3.11 or newer; $(PYTHON) is not." >&2; exit 1; }
	@"$(PYTHON)" -m venv .venv || { rm -rf .venv; \
		echo "$(PYTHON) could not make a virtual environment; on Debian and Ubuntu install python3-venv." >&2; exit 1; }

.venv/.server: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing Unbroken into .venv"
	@.venv/bin/python -m pip install --quiet --editable '.[server]'
	@touch $@

.venv/.all: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing Unbroken and its tools into .venv"
	@.venv/bin/python -m pip install --quiet --editable '.[server,test,dev]'
	@touch .venv/.server $@

%/node_modules/.installed: %/package.json %/.npmrc
	@echo "Installing what $*/package.json names into $*/node_modules"
	@npm --prefix $* install --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
