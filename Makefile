# make run: the main job. make test: the tests. make check: all that a commit must pass.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/.ready

.PHONY: run test slow lm-eval check lint format setup lock dist docs clean

run: $(READY)
	$(BIN)/cotdistill run

test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist worksteal -m "not slow and not gpu"

slow: setup
	$(BIN)/pytest -m "slow and not gpu" --durations=25

# The tests start hundreds of processes: bytecode is kept, though an image may say otherwise.
test slow: export PYTHONDONTWRITEBYTECODE :=

# lm-eval brings some thirty packages that nothing else needs: it has an environment of its own.
lm-eval: $(VENV)-lm-eval/.ready
	$(VENV)-lm-eval/bin/pytest tests/test_export.py

$(VENV)-lm-eval/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-lm-eval
	$(VENV)-lm-eval/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VENV)-lm-eval/bin/python -m pip install --quiet --disable-pip-version-check 'lm-eval[hf]==0.4.13' pytest -e '.[train]'
	touch $@

check: lint test

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

setup: $(READY)-dev

# What a run needs, at the versions of requirements.lock; --no-build-isolation: the build tools are the lock's too.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c requirements.lock hatchling editables
	$(PIP) -c requirements.lock --no-build-isolation -e '.[train,report,math]'
	touch $@

# All of the lock, into the same environment: for tests, checks and the site.
$(READY)-dev: $(READY)
	$(PIP) -r requirements.lock
	touch $@

# torch is held at one version: a newer one changes numbers, and on Linux its download is gigabytes.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet torch==2.13.0
	$(VENV)-lock/bin/python -m pip install --quiet '.[train,math,report,tasks,ray,s3,serve,docs,dev]'
	$(VENV)-lock/bin/python -m pip freeze --exclude cotdistill | sed "s/+cpu$$//" > requirements.lock
	rm -rf $(VENV)-lock

# Wheel and sdist; the wheel is tried in a new environment, with what the index has today and without torch.
dist: $(READY)
	rm -rf dist $(VENV)-dist
	$(BIN)/hatchling build
	$(PYTHON) -m venv $(VENV)-dist
	$(VENV)-dist/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	$(VENV)-dist/bin/cotdistill --version
	$(VENV)-dist/bin/cotdistill curate task.train=8 runs=$(VENV)-dist/runs
	rm -rf $(VENV)-dist

# The site, in build/site; a broken link is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:
	rm -rf $(VENV) $(VENV)-dist build dist $(VENV)-lock $(VENV)-lm-eval .mypy_cache .pytest_cache .ruff_cache
