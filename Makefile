# make demo   environment, export, build, serve, transcribe a dialogue, score it
# make serve  servers for recordings and streams, and the service for applications, on this machine
# make test   environment, then every test but the slow ones: units, the slim environment, the real server and compilers
# make test-all  the same with the slow tests: the training in small, all four compile targets, longer kill loops
# make lint   ruff, mypy --strict, import-linter, the list of words
# make images builds three images, serves and transcribes with them (Docker, or root with buildah, runc and debootstrap)
# make bench  measure speed side by side, in at most 15 minutes on two idle cores; writes docs/performance.md
# make lock   resolve requirements.lock again
PYTHON ?= python3
VENV := .venv
SLIM := .venv-slim
BIN := $(VENV)/bin
# Two OpenMP pools on two cores are slower than one thread in each of several processes.
export OMP_NUM_THREADS ?= 1
# ONNX Runtime would otherwise store usage events in the home folder and send them to its maker.
export ORT_DISABLE_TELEMETRY ?= 1

.PHONY: demo serve test test-all lint images bench lock env clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/make/p' Makefile

env: $(VENV)/installed

# `venv --clear` follows a link and empties the environment of another checkout.
refuse-link = @test ! -L $(1) || { \
  echo "error: $(1) is a link, and its packages are older than requirements.lock. Remove the link, or update its target." >&2; exit 1; }

$(VENV)/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { \
	  echo "error: $$($(PYTHON) --version): the pinned environment needs Python 3.11 or 3.12 (nvidia-pytriton wants NumPy 1.26, which" \
	  "has no wheel for later ones). Name one: make PYTHON=python3.11 $(MAKECMDGOALS)." >&2; exit 1; }
	$(call refuse-link,$(VENV))
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	touch $@

# What the image of a server has, and pytest: contract and runtime must need no more.
$(SLIM)/installed: requirements.lock
	$(call refuse-link,$(SLIM))
	$(PYTHON) -m venv --clear $(SLIM)
	$(SLIM)/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock click cuda-bindings cryptography nvidia-ml-py pytest pytest-xdist
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m demo

serve: $(VENV)/installed
	$(BIN)/python -m demo.serve $(OPTIONS)

# contract and runtime first in the slim environment; the full one then runs what the slim one skipped, and all the rest.
# One worker a core, each takes a whole file (tests/conftest.py).
PYTEST := -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PASSED := dist/tests/passed-slim.txt

test: $(VENV)/installed $(SLIM)/installed
	@echo "make test: about 20 minutes on two cores, 6 GB of memory, 0.4 GB below dist/tests. make test-all: about 50 minutes."
	$(run-tests)

test-all: $(VENV)/installed $(SLIM)/installed
	@echo "make test-all: about 50 minutes on two cores, 6 GB of memory, 0.4 GB below dist/tests."
	$(run-tests) -m "slow or not slow"

define run-tests
VOXWRIGHT_SLIM=1 $(SLIM)/bin/python -m pytest $(PYTEST) --write-passed=$(PASSED) tests/unit/contract tests/unit/runtime
$(BIN)/python -m pytest $(PYTEST) --leave-out=$(PASSED)
endef

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python ci/check_words.py

images: $(VENV)/installed
	$(BIN)/python -m export --out dist/onnx
	$(BIN)/python -m build.engines --arch cpu
	ci/images

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks

# pip-tools installs PyPA's `build`, which would hide the package of this project: it gets an environment of its own.
lock:
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check pip-tools==7.6.2
	.venv-lock/bin/pip-compile --quiet --upgrade --all-extras --strip-extras --no-header --no-annotate --no-emit-index-url \
	  --no-emit-find-links --no-emit-options --output-file requirements.lock pyproject.toml
	sed -i -e '/^#/d' -e '/^$$/d' -e 's/+cpu$$//' requirements.lock

clean:
	rm -rf dist $(VENV) $(SLIM) .venv-lock transcriber/*.so
