# make demo   environment, export, build, serve, transcribe a dialogue, score it
# make test   environment, every test: units, the slim rooms without their heavy neighbours, the real server and compilers
# make lint   ruff, mypy --strict, import-linter
# make images builds two images, serves and transcribes with them (Docker, or root with buildah, runc and debootstrap)
# make bench  what is measured, side by side
# make lock   resolve requirements.lock anew
PYTHON ?= python3
VENV := .venv
SLIM := .venv-slim
BIN := $(VENV)/bin
# Two OpenMP pools on two cores are slower than one thread in each of several processes.
export OMP_NUM_THREADS ?= 1
# ONNX Runtime otherwise keeps events in the home folder and tells its maker of them.
export ORT_DISABLE_TELEMETRY ?= 1

.PHONY: demo test lint images bench lock env clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/make/p' Makefile

env: $(VENV)/installed

$(VENV)/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { \
	  echo "error: $$($(PYTHON) --version): the pinned environment needs Python 3.11 or 3.12 (nvidia-pytriton wants NumPy 1.26, which" \
	  "has no wheel for later ones). Name one: make PYTHON=python3.11 $(MAKECMDGOALS)." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	touch $@

# contract and runtime with nothing but what an operator's image has.
$(SLIM)/installed: requirements.lock
	$(PYTHON) -m venv --clear $(SLIM)
	$(SLIM)/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock click cuda-bindings cryptography nvidia-ml-py pytest
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m demo

test: $(VENV)/installed $(SLIM)/installed
	VOXWRIGHT_SLIM=1 $(SLIM)/bin/python -m pytest -q tests/unit/contract tests/unit/runtime
	$(BIN)/python -m pytest -q

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

images: $(VENV)/installed
	$(BIN)/python -m export --out dist/onnx
	$(BIN)/python -m build.engines --arch cpu
	ci/images

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks

# pip-tools brings PyPA's `build`, which must not stand beside ours: it gets an environment of its own.
lock:
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check pip-tools==7.6.2
	.venv-lock/bin/pip-compile --quiet --upgrade --all-extras --strip-extras --no-header --no-annotate --no-emit-index-url \
	  --no-emit-find-links --no-emit-options --output-file requirements.lock pyproject.toml
	sed -i -e '/^#/d' -e '/^$$/d' -e 's/+cpu$$//' requirements.lock

clean:
	rm -rf dist $(VENV) $(SLIM) .venv-lock
